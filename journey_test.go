package endstate_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// journey is a service that goes through all of the library, on a database of its own in which its tables are in the schema app.
type journey struct {
	t      *testing.T
	owner  *pgxpool.Pool // the administrator's
	outbox outbox.Writer
	way    way
	pause  func(context.Context, endstate.Querier) // in callbacks and handlers; nil: none
	events []outbox.Event                          // that the relay has published
}

// way is one of the two ways to the database.
type way struct {
	migrate, check []func(context.Context) error
	do             func(ctx context.Context, id, trigger string) (finalize.Receipt, error)
	inTx           func(ctx context.Context, id string, event outbox.Event) (finalize.Receipt, error) // a Put and a DoTx
	settle         func(ctx context.Context, key guard.Key, trigger finalize.Trigger, out finalize.Outcome) (finalize.Receipt, error)
	many           func(ctx context.Context, trigger finalize.Trigger, items []finalize.Item) ([]finalize.Result, error)
	relay          func(outbox.Publisher, *relay.Config) (*relay.Relay, error)
	consumer       func(*relay.Config) (*relay.Relay, error)
	handle         inbox.Handler
	admin          *relay.Admin
}

// newJourney begins one. Schema is what the library is told about the schema of its tables and of the service's.
func newJourney(t *testing.T, owner, pool *pgxpool.Pool, db *sql.DB, schema string) *journey {
	t.Helper()
	cfg := &finalize.Config{
		Aggregate: "batch",
		Guard: guard.All(
			guard.Status{Schema: schema, Table: "batches", Key: "id", Column: "status", Terminal: guard.Names("DONE")},
			guard.Ledger{Schema: schema}),
		Outbox: outbox.Writer{Schema: schema},
		Cache:  finalize.CacheConfig{Off: true},
		Logger: slog.New(slog.DiscardHandler),
	}
	table := &inbox.TableConfig{Consumer: "effects", Schema: schema, Logger: cfg.Logger}
	j := &journey{t: t, owner: owner, outbox: cfg.Outbox}
	var err error
	if pool != nil {
		fin, newErr := finalize.New(pool, cfg)
		require.NoError(t, newErr)
		in, newErr := inbox.NewTable(pool, table)
		require.NoError(t, newErr)
		j.way = wayOf(j, fin, in, pool.Begin, func(tx pgx.Tx) endstate.Tx { return tx })
		j.way.relay = func(p outbox.Publisher, c *relay.Config) (*relay.Relay, error) { return relay.New(pool, p, c) }
		j.way.consumer = func(c *relay.Config) (*relay.Relay, error) {
			return relay.NewConsumer(pool, func(ctx context.Context, tx pgx.Tx, _ outbox.Event) error { return apply(ctx, tx, "consumed") }, c)
		}
		j.way.admin, err = relay.NewAdmin(pool, &relay.Config{Outbox: cfg.Outbox})
	} else {
		fin, newErr := finalize.NewSQL(db, cfg)
		require.NoError(t, newErr)
		in, newErr := inbox.NewTableSQL(db, table)
		require.NoError(t, newErr)
		wrap := func(tx *sql.Tx) endstate.Tx { return endstate.PostgresTx(tx) }
		j.way = wayOf(j, fin, in, func(ctx context.Context) (*sql.Tx, error) { return db.BeginTx(ctx, nil) }, wrap)
		j.way.relay = func(p outbox.Publisher, c *relay.Config) (*relay.Relay, error) { return relay.NewSQL(db, p, c) }
		j.way.consumer = func(c *relay.Config) (*relay.Relay, error) {
			return relay.NewConsumerSQL(db, func(ctx context.Context, tx *sql.Tx, _ outbox.Event) error { return apply(ctx, wrap(tx), "consumed") }, c)
		}
		j.way.admin, err = relay.NewAdminSQL(db, &relay.Config{Outbox: cfg.Outbox})
	}
	require.NoError(t, err)
	j.way.check = append(j.way.check, j.way.admin.Check)
	return j
}

func wayOf[Tx any](j *journey, fin *finalize.Finalizer[Tx], table *inbox.Table[Tx], begin func(context.Context) (Tx, error), wrap func(Tx) endstate.Tx) way {
	complete := func(id string) finalize.Func[Tx] {
		return func(ctx context.Context, tx Tx) (finalize.Outcome, error) {
			j.pausing(ctx, wrap(tx))
			_, err := wrap(tx).Exec(ctx, "UPDATE app.batches SET note = 'worked' WHERE id = $1", id)
			return done(), err
		}
	}
	return way{
		migrate: []func(context.Context) error{fin.Migrate, table.Migrate},
		check:   []func(context.Context) error{fin.Check, table.Check},
		settle:  fin.Settle,
		many:    fin.SettleMany,
		do: func(ctx context.Context, id, trigger string) (finalize.Receipt, error) {
			return fin.Do(ctx, guard.Text(id), finalize.Trigger(trigger), complete(id))
		},
		inTx: func(ctx context.Context, id string, event outbox.Event) (r finalize.Receipt, err error) {
			opened, err := begin(ctx)
			if err != nil {
				return r, err
			}
			tx := wrap(opened)
			defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
			if _, err = j.outbox.Put(ctx, tx, event); err != nil {
				return r, err
			}
			if r, err = fin.DoTx(ctx, opened, guard.Text(id), "tx", complete(id)); err != nil {
				return r, err
			}
			return r, tx.Commit(ctx)
		},
		handle: inbox.Handle(table, func(ctx context.Context, tx Tx, _ outbox.Event) error {
			j.pausing(ctx, wrap(tx))
			return apply(ctx, wrap(tx), "handled")
		}),
	}
}

func (j *journey) pausing(ctx context.Context, tx endstate.Querier) {
	if j.pause != nil {
		j.pause(ctx, tx)
	}
}

func done() finalize.Outcome {
	return finalize.Outcome{State: "DONE", Events: []outbox.Event{{Type: "batch.done", Payload: []byte(`{"ok":true}`)}}}
}

// apply is a consumer's effect.
func apply(ctx context.Context, tx endstate.Querier, by string) error {
	_, err := tx.Exec(ctx, "INSERT INTO app.effects (by) VALUES ($1)", by)
	return err
}

// step is a part of a journey. After an error it can be gone again.
type step struct {
	name string
	run  func(context.Context) error
}

// steps are the journey, in its order.
func (j *journey) steps() []step {
	return []step{
		{"Migrate", func(ctx context.Context) error { return each(ctx, j.way.migrate) }},
		{"Check", func(ctx context.Context) error { return each(ctx, j.way.check) }},
		{"Do", func(ctx context.Context) error {
			return j.final(ctx, "do", func(ctx context.Context) (finalize.Receipt, error) { return j.way.do(ctx, "do", "t") })
		}},
		{"DoTx", func(ctx context.Context) error {
			event := outbox.Event{AggregateType: "batch", AggregateID: "tx", Type: "batch.noted", Payload: []byte(`{}`), DedupKey: "noted"}
			return j.final(ctx, "tx", func(ctx context.Context) (finalize.Receipt, error) { return j.way.inTx(ctx, "tx", event) })
		}},
		{"Settle", func(ctx context.Context) error {
			return j.final(ctx, "settle", func(ctx context.Context) (finalize.Receipt, error) {
				return j.way.settle(ctx, guard.Text("settle"), "t", done())
			})
		}},
		{"SettleMany", func(ctx context.Context) error {
			results, err := j.way.many(ctx, "sweep", []finalize.Item{{Key: guard.Text("many1"), Outcome: done()}, {Key: guard.Text("many2"), Outcome: done()}})
			if err != nil {
				return err
			}
			return errors.Join(results[0].Err, results[1].Err)
		}},
		{"Do by eight at once", j.race},
		{"relay", j.publish},
		{"inbox", j.handle},
		{"consumer", j.consume},
		{"retention", j.retain},
		{"Admin", j.operate},
	}
}

func each(ctx context.Context, calls []func(context.Context) error) error {
	for _, call := range calls {
		if err := call(ctx); err != nil {
			return err
		}
	}
	return nil
}

// final has a call win, and then lose to itself.
func (j *journey) final(ctx context.Context, id string, call func(context.Context) (finalize.Receipt, error)) error {
	for range 2 {
		r, err := call(ctx)
		if err != nil {
			return err
		}
		if r.State != "DONE" {
			return fmt.Errorf("the receipt of %s says %q", id, r.State)
		}
	}
	return nil
}

// race has eight triggers at once.
func (j *journey) race(ctx context.Context) error {
	errs := make([]error, 8)
	var won atomic.Int32
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			var r finalize.Receipt
			if r, errs[i] = j.way.do(ctx, "race", fmt.Sprint("trigger ", i)); r.Won {
				won.Add(1)
			}
		})
	}
	group.Wait()
	if won.Load() > 1 {
		return errors.New("two triggers won")
	}
	return errors.Join(errs...)
}

// publish runs a relay until all events are published.
func (j *journey) publish(ctx context.Context) error {
	total, err := j.count(ctx, "endstate_outbox")
	if err != nil {
		return err
	}
	seen := map[uuid.UUID]bool{}
	for _, e := range j.events {
		seen[e.ID] = true
	}
	var mu sync.Mutex
	publisher := outbox.PublisherFunc(func(_ context.Context, e outbox.Event) error {
		mu.Lock()
		defer mu.Unlock()
		if !seen[e.ID] {
			seen[e.ID] = true
			j.events = append(j.events, e)
		}
		return nil
	})
	return j.run(ctx, func(cfg *relay.Config) (*relay.Relay, error) { return j.way.relay(publisher, cfg) }, relay.KeepForever, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(seen) == total
	})
}

// handle delivers each event twice to a consumer with an inbox.
func (j *journey) handle(ctx context.Context) error {
	events := j.events
	if len(events) == 0 { // the relay didn't come so far
		events = []outbox.Event{{ID: uuid.New(), AggregateType: "batch", AggregateID: "early", Type: "batch.done", Payload: []byte("{}")}}
	}
	for _, e := range append(events, events...) {
		if _, err := j.way.handle(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (j *journey) consume(ctx context.Context) error {
	total, err := j.count(ctx, "endstate_outbox")
	if err != nil {
		return err
	}
	return j.run(ctx, func(cfg *relay.Config) (*relay.Relay, error) {
		cfg.Subscription = "consumer"
		return j.way.consumer(cfg)
	}, relay.KeepForever, func() bool {
		n, err := j.count(ctx, "effects WHERE by = 'consumed'")
		return err == nil && n == total
	})
}

// retain runs a relay that deletes what all have published.
func (j *journey) retain(ctx context.Context) error {
	publisher := outbox.PublisherFunc(func(context.Context, outbox.Event) error { return nil })
	return j.run(ctx, func(cfg *relay.Config) (*relay.Relay, error) { return j.way.relay(publisher, cfg) }, relay.DeleteOnPublish, func() bool {
		n, err := j.count(ctx, "endstate_outbox")
		return err == nil && n == 0
	})
}

func (j *journey) operate(ctx context.Context) error {
	if _, err := j.way.admin.Stats(ctx); err != nil {
		return err
	}
	if _, err := j.way.admin.List(ctx, relay.Filter{State: relay.Dead}); err != nil {
		return err
	}
	by := relay.By{Subscription: "consumer", Who: "somebody", Why: "because"}
	names, err := j.way.admin.Subscriptions(ctx)
	if err != nil {
		return err
	}
	if slices.Contains(names, by.Subscription) { // not dropped by an earlier go
		if _, err := j.way.admin.Replay(ctx, by, relay.Replay{From: time.Now()}); err != nil {
			return err
		}
		if err := j.way.admin.Drop(ctx, by); err != nil {
			return err
		}
	}
	_, _, err = j.way.admin.History(ctx, "", 0, 10)
	return err
}

// run runs a relay until it has done its work, or logs an error.
func (j *journey) run(ctx context.Context, build func(*relay.Config) (*relay.Relay, error), retention time.Duration, finished func() bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failures := make(chan error, 100)
	r, err := build(&relay.Config{
		Outbox: j.outbox, Retention: retention, PollInterval: 20 * time.Millisecond, Logger: slog.New(failing{slog.DiscardHandler, failures}),
	})
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ran:
			return err
		case err := <-failures:
			cancel()
			return errors.Join(err, <-ran)
		case <-tick.C:
			if finished() {
				cancel()
				return <-ran
			}
		}
	}
}

// failing is a log whose errors somebody waits for.
type failing struct {
	slog.Handler
	failures chan<- error
}

func (f failing) Enabled(context.Context, slog.Level) bool { return true }

func (f failing) Handle(_ context.Context, record slog.Record) error {
	record.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			select {
			case f.failures <- err:
			default:
			}
		}
		return true
	})
	return nil
}

func (f failing) WithAttrs([]slog.Attr) slog.Handler { return f }
func (f failing) WithGroup(string) slog.Handler      { return f }

// count counts a table's rows, as the administrator.
func (j *journey) count(ctx context.Context, table string) (n int, err error) {
	err = j.owner.QueryRow(ctx, "SELECT count(*) FROM app."+table).Scan(&n)
	return n, err
}

// requireDone checks what the whole journey must have left.
func (j *journey) requireDone() {
	j.t.Helper()
	for what, want := range map[string]int{
		"batches WHERE status = 'DONE'": 6, "endstate_ledger": 6, "endstate_outbox": 0,
		"effects WHERE by = 'handled'": 7, "effects WHERE by = 'consumed'": 7,
	} {
		n, err := j.count(j.t.Context(), what)
		require.NoError(j.t, err)
		require.Equal(j.t, want, n, what)
	}
	require.Len(j.t, j.events, 7)
}

// requireUntouched checks that nothing was finalized.
func (j *journey) requireUntouched() {
	j.t.Helper()
	for _, what := range []string{"batches WHERE status <> 'PENDING' AND id <> 'early'", "effects"} {
		n, err := j.count(j.t.Context(), what)
		require.NoError(j.t, err)
		require.Zero(j.t, n, what)
	}
}
