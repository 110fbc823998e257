package relay_test

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// consumerKinds are the ways to a consumer's database.
var consumerKinds = []string{"pgx", "sql", "sqlite-wal", "sqlite-delete"}

// effect is a handler that works in a transaction of any kind.
type effect func(ctx context.Context, tx endstate.Tx, e outbox.Event) error

// consumer makes a consumer of the subscription "default", whose figures the tests' helpers know.
func (db *database) consumer(t testing.TB, handle effect, cfg *relay.Config) (rel *relay.Relay) {
	t.Helper()
	cfg.Subscription = "default"
	var err error
	if db.Pool != nil {
		rel, err = relay.NewConsumer(db.Pool, func(ctx context.Context, tx pgx.Tx, e outbox.Event) error { return handle(ctx, tx, e) }, cfg)
	} else {
		wrap := endstate.PostgresTx
		if db.SQLite {
			wrap = endstate.SQLiteTx
		}
		rel, err = relay.NewConsumerSQL(db.SQL, func(ctx context.Context, tx *sql.Tx, e outbox.Event) error { return handle(ctx, wrap(tx), e) }, cfg)
	}
	require.NoError(t, err)
	return rel
}

// effects makes the table that handlers write to, which counts each time.
func (db *database) effects(t testing.TB) {
	t.Helper()
	number := "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
	if db.SQLite {
		number = "INTEGER PRIMARY KEY"
	}
	db.Exec(t, "CREATE TABLE effects (number "+number+", event text NOT NULL, aggregate text NOT NULL, kind text NOT NULL)")
}

func apply(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
	_, err := tx.Exec(ctx, "INSERT INTO effects (event, aggregate, kind) VALUES ($1, $2, $3)", e.ID.String(), e.AggregateID, e.Type)
	return err
}

// requireOnce makes sure that each event has one effect, unless it is a dead letter, which has none, and that they came in order.
func (db *database) requireOnce(t testing.TB) {
	t.Helper()
	require.Zero(t, outboxdbtest.One[int](t, db, "SELECT count(*) - count(DISTINCT event) FROM effects"), "effects twice")
	live := "FROM endstate_outbox e WHERE NOT EXISTS (SELECT 1 FROM endstate_outbox_parked p WHERE p.seq = e.seq AND p.dead_at IS NOT NULL)"
	require.Zero(t, outboxdbtest.One[int](t, db, "SELECT count(*) "+live+" AND CAST(e.id AS text) NOT IN (SELECT event FROM effects)"), "events without an effect")
	require.Equal(t, outboxdbtest.One[int](t, db, "SELECT count(*) "+live), outboxdbtest.One[int](t, db, "SELECT count(*) FROM effects"))
	require.Zero(t, outboxdbtest.One[int](t, db, `SELECT count(*) FROM effects a JOIN endstate_outbox ea ON CAST(ea.id AS text) = a.event JOIN effects b ON b.aggregate = a.aggregate
	JOIN endstate_outbox eb ON CAST(eb.id AS text) = b.event WHERE ea.seq < eb.seq AND a.number > b.number`), "out of order")
}

func TestConsumerAppliesEachEventOnceAndInOrder(t *testing.T) {
	t.Parallel()
	each(t, consumerKinds, writer, func(t *testing.T, db *database) {
		db.effects(t)
		db.aggregates(t, 50, 5)
		var calls atomic.Int64
		c := db.consumer(t, func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
			calls.Add(1)
			return apply(ctx, tx, e)
		}, quick())
		stop := run(t, c)
		db.settled(t)
		db.aggregates(t, 3, 2)
		c.Wake()
		db.settled(t)
		stop()
		db.requireOnce(t)
		require.Zero(t, db.parked(t, "1 = 1"))
		if !db.SQLite {
			require.EqualValues(t, 256, calls.Load())
		}
	})
}

// What a batch's handlers wrote is one transaction with the cursors' move.
func TestConsumerCommitsABatchAtOnce(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	db.Migrate(t, *writer)
	db.effects(t)
	db.Exec(t, "ALTER TABLE effects ADD txid xid8 DEFAULT pg_current_xact_id(), ADD settings text DEFAULT current_setting('enable_seqscan') || current_setting('idle_in_transaction_session_timeout')")
	db.Exec(t, "CREATE TABLE moves (txid xid8 DEFAULT pg_current_xact_id())")
	db.Exec(t, "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO moves DEFAULT VALUES; RETURN NULL; END'")
	db.Exec(t, "CREATE TRIGGER note AFTER UPDATE OF position ON endstate_outbox_cursors FOR EACH ROW WHEN (OLD.position <> NEW.position) EXECUTE FUNCTION note()")
	db.aggregates(t, 10, 3)
	cfg := quick()
	relay.SetPass(cfg, time.Minute)
	run(t, db.consumer(t, apply, cfg))
	db.settled(t)
	db.requireOnce(t)
	require.Equal(t, 1, outboxdbtest.One[int](t, db, "SELECT count(DISTINCT txid) FROM effects"))
	require.Equal(t, 1, outboxdbtest.One[int](t, db, "SELECT count(DISTINCT txid) FROM (SELECT txid FROM effects UNION SELECT txid FROM moves) t"))
	require.Equal(t, "on30s", outboxdbtest.One[string](t, db, "SELECT DISTINCT settings FROM effects"), "the planner is the handler's, and the server ends what is idle")
}

// One bad event among good ones: whatever it does, those of other aggregates are applied, once.
func TestConsumerParksAPoisonousEvent(t *testing.T) {
	t.Parallel()
	refuse := errors.New("refused")
	for name, bad := range map[string]effect{
		"fails":  func(context.Context, endstate.Tx, outbox.Event) error { return refuse },
		"panics": func(context.Context, endstate.Tx, outbox.Event) error { panic("secret") },
		"hangs":  func(ctx context.Context, _ endstate.Tx, _ outbox.Event) error { <-ctx.Done(); return ctx.Err() },
		"writes, and fails": func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
			return errors.Join(apply(ctx, tx, e), refuse)
		},
		"passes over a lost connection": func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
			if sqltx.Of(tx) == sqltx.SQLite { // whose connections aren't lost
				return refuse
			}
			_, _ = tx.Exec(ctx, "SELECT pg_terminate_backend(pg_backend_pid())")
			return nil
		},
		"passes over a failed statement": func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
			if _, err := tx.Exec(ctx, "INSERT INTO nowhere VALUES (1)"); err == nil {
				return nil
			}
			if _, lite := tx.(interface{ Conn() *pgx.Conn }); !lite {
				_, err := tx.Exec(ctx, "SELECT 1")
				if err == nil {
					return refuse // SQLite's transaction goes on
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, []string{"pgx", "sql", "sqlite-wal"}, writer, func(t *testing.T, db *database) {
				db.effects(t)
				db.aggregates(t, 20, 5)
				cfg := quick()
				if cfg.MaxAttempts = 3; name == "hangs" {
					cfg.PublishTimeout = time.Second
				}
				var mu sync.Mutex
				attempts := map[int]int{}
				cfg.Trace = &relay.Trace{Failed: func(_ context.Context, e outbox.Event, attempt int, _ error, _ time.Duration) {
					mu.Lock()
					defer mu.Unlock()
					attempts[attempt]++
				}}
				c := db.consumer(t, func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
					if e.AggregateID == "a7" && e.Type == "2" {
						return bad(ctx, tx, e)
					}
					return apply(ctx, tx, e)
				}, cfg)
				run(t, c)
				db.settled(t)
				require.Equal(t, 1, db.parked(t, "dead_at IS NOT NULL AND attempts = 3"))
				require.Zero(t, db.parked(t, "dead_at IS NULL"))
				require.Zero(t, db.parked(t, "last_error LIKE '%secret%'"))
				db.requireOnce(t)
				require.Equal(t, 99, outboxdbtest.One[int](t, db, "SELECT count(*) FROM effects"))
				mu.Lock()
				defer mu.Unlock()
				require.Equal(t, map[int]int{1: 1, 2: 1, 3: 1}, attempts)
			})
		})
	}
}

// An event that fails for a while is tried again, and those of its aggregate come after it; parked events are handled as others are.
func TestConsumerRetriesParkedEvents(t *testing.T) {
	t.Parallel()
	each(t, consumerKinds, writer, func(t *testing.T, db *database) {
		db.effects(t)
		db.aggregates(t, 10, 20)
		var failures atomic.Int64
		c := db.consumer(t, func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
			err := apply(ctx, tx, e)
			if (e.AggregateID == "a1" || e.AggregateID == "a5") && e.Type == "3" && failures.Add(1) < 8 {
				return errors.New("not yet")
			}
			return err
		}, quick())
		run(t, c)
		db.settled(t)
		db.requireOnce(t)
		require.Zero(t, db.parked(t, "1 = 1"))
	})
}

// A handler that fails everything costs no event an attempt, and nothing is written.
func TestConsumerOutage(t *testing.T) {
	t.Parallel()
	each(t, consumerKinds, writer, func(t *testing.T, db *database) {
		db.effects(t)
		db.aggregates(t, 20, 5)
		var broken atomic.Bool
		broken.Store(true)
		var calls atomic.Int64
		cfg := quick()
		cfg.MaxAttempts = 2
		told := make(chan error, 10)
		cfg.Trace = &relay.Trace{Blocked: func(_ context.Context, err error) { told <- err }}
		c := db.consumer(t, func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
			calls.Add(1)
			if broken.Load() {
				return errors.Join(apply(ctx, tx, e), outbox.Permanent(errors.New("away")))
			}
			return apply(ctx, tx, e)
		}, cfg)
		run(t, c)
		require.ErrorContains(t, <-told, "away")
		before := calls.Load()
		eventually(t, "it goes on trying", func() bool { return calls.Load() > before+30 })
		require.Zero(t, db.parked(t, "1 = 1"))
		require.Zero(t, outboxdbtest.One[int](t, db, "SELECT count(*) FROM effects"))
		require.Zero(t, outboxdbtest.One[int](t, db, "SELECT max(position) FROM endstate_outbox_cursors"))
		broken.Store(false)
		db.settled(t)
		require.NoError(t, <-told)
		db.requireOnce(t)
		require.Zero(t, db.parked(t, "1 = 1"))
	})
}

// What a handler puts is in the outbox with its effect, and comes to this very subscription.
func TestConsumersHandlerPuts(t *testing.T) {
	t.Parallel()
	each(t, consumerKinds, writer, func(t *testing.T, db *database) {
		db.effects(t)
		db.aggregates(t, 20, 2)
		failed := false
		c := db.consumer(t, func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
			if err := apply(ctx, tx, e); err != nil {
				return err
			}
			if e.Type == "derived" {
				return nil
			}
			derived := event("derived", "")
			derived.AggregateID = "of " + e.AggregateID
			if _, err := outbox.Put(ctx, tx, derived); err != nil {
				return err
			}
			if e.AggregateID == "a3" && !failed {
				failed = true
				return errors.New("once")
			}
			return nil
		}, quick())
		run(t, c)
		eventually(t, "what was derived", func() bool { return db.Count(t) == 80 })
		db.settled(t)
		db.requireOnce(t)
		require.Equal(t, 40, outboxdbtest.One[int](t, db, "SELECT count(*) FROM effects WHERE kind = 'derived'"))
	})
}

func TestConsumerConfig(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "sqlite-wal")
	handler := func(context.Context, *sql.Tx, outbox.Event) error { return nil }
	for want, f := range map[string]func() (*relay.Relay, error){
		"Subscription is empty": func() (*relay.Relay, error) { return relay.NewConsumerSQL(db.SQL, handler, nil) },
		"the handler is nil": func() (*relay.Relay, error) {
			return relay.NewConsumerSQL(db.SQL, nil, &relay.Config{Subscription: "s"})
		},
		"the database is nil": func() (*relay.Relay, error) {
			return relay.NewConsumer(nil, func(context.Context, pgx.Tx, outbox.Event) error { return nil }, &relay.Config{Subscription: "s"})
		},
	} {
		_, err := f()
		require.ErrorIs(t, err, outbox.ErrConfig)
		require.ErrorContains(t, err, want)
	}
}

// A relay that publishes isn't let into a consumer's subscription: they would split the events.
func TestConsumerSharesWithConsumersOnly(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, writer, func(t *testing.T, db *database) {
		db.effects(t)
		for range 2 {
			run(t, db.consumer(t, apply, quick()))
		}
		eventually(t, "they share", func() bool {
			return outboxdbtest.One[int](t, db, "SELECT count(DISTINCT owner) FROM endstate_outbox_cursors") == 2
		})
		cfg := quick()
		cfg.Destination = "https://elsewhere.example"
		require.ErrorIs(t, db.relay(t, &recorder{}, cfg).Run(t.Context()), relay.ErrDestination)
		db.aggregates(t, 50, 3)
		db.settled(t)
		db.requireOnce(t)
	})
}
