package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/internal/testserver"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// F26: on every version of PostgreSQL that is here each way to finalize, with its acknowledgement lost and without, each guard, a
// relay, a consumer and an inbox come to the same.
func TestEveryVersionOfPostgres(t *testing.T) {
	bins, err := testserver.PostgresBins()
	require.NoError(t, err)
	var first []string
	for _, bin := range bins {
		server, err := testserver.StartPostgresOf(bin, "fsync=off")
		require.NoError(t, err, bin)
		t.Cleanup(server.Close)
		v := newVersion(t, server)
		t.Run("PostgreSQL "+v.name, func(t *testing.T) {
			came := v.story(t)
			if first == nil {
				first = came
			}
			require.Equal(t, first, came)
		})
	}
}

// version is a server of one version, and the library on it.
type version struct {
	name       string
	direct     *pgxpool.Pool
	proxy      *pgfault.Proxy
	finalizers *library
	inbox      *inbox.Table[pgx.Tx]
}

func newVersion(t *testing.T, server *testserver.Postgres) *version {
	t.Helper()
	v := &version{direct: dbtest.PoolOn(t, server.URL()), proxy: pgfault.New(t, server.URL())}
	require.NoError(t, v.direct.QueryRow(t.Context(), "SELECT split_part(current_setting('server_version'), ' ', 1)").Scan(&v.name))
	_, err := v.direct.Exec(t.Context(), schema)
	require.NoError(t, err)
	v.finalizers, err = newLibrary(dbtest.PoolOn(t, v.proxy.URL()), dbtest.SQLOn(t, v.proxy.URL()), nil)
	require.NoError(t, err)
	for _, f := range v.finalizers.pgx {
		require.NoError(t, f.Migrate(t.Context()))
		require.NoError(t, f.Check(t.Context()))
	}
	v.inbox, err = inbox.NewTable(v.direct, &inbox.TableConfig{Consumer: "results"})
	require.NoError(t, err)
	require.NoError(t, v.inbox.Migrate(t.Context()))
	require.NoError(t, v.inbox.Check(t.Context()))
	return v
}

// story is what came of everything, in lines without what differs from one run to the next.
func (v *version) story(t *testing.T) (lines []string) {
	t.Helper()
	ctx := t.Context()
	const keys = 200
	openKeys(t, v.direct, keys)
	tell := func(what string, r *record) { lines = append(lines, fmt.Sprintf("%s: %s %s", what, r.Result, r.State)) }
	key := int64(0)
	call := func(what string, do func(r *record)) {
		r := &record{Call: fmt.Sprint("call-", key), Key: key}
		do(r)
		tell(fmt.Sprintf("%s, %s", groups()[groupOf(key)].name, what), r)
	}
	for range groups() {
		group := groupOf(key)
		l := v.finalizers
		direct := func(r *record) finalize.Func[pgx.Tx] {
			return func(ctx context.Context, tx pgx.Tx) (finalize.Outcome, error) {
				_, err := tx.Exec(ctx, "INSERT INTO writes VALUES ($1, $2)", r.Key, state(r.Call))
				return outcome(r), err
			}
		}
		ways := []struct {
			name, at string // the statement by which it commits
			call     func(r *record) (finalize.Receipt, error)
		}{
			{"Do", "commit", func(r *record) (finalize.Receipt, error) {
				return l.pgx[group].Do(ctx, guard.Int(r.Key), "trigger", direct(r))
			}},
			{"DoPrepared", "commit", func(r *record) (finalize.Receipt, error) {
				return l.pgx[group].DoPrepared(ctx, guard.Int(r.Key), "trigger", func(context.Context) (finalize.Func[pgx.Tx], error) { return direct(r), nil })
			}},
			{"Settle", "WITH endstate_settle0", func(r *record) (finalize.Receipt, error) {
				return l.pgx[group].Settle(ctx, guard.Int(r.Key), "trigger", outcome(r))
			}},
			{"Settle by database/sql", "commit", func(r *record) (finalize.Receipt, error) {
				return l.sql[group].Settle(ctx, guard.Int(r.Key), "trigger", outcome(r))
			}},
		}
		for _, way := range ways {
			for _, fault := range []*pgfault.Fault{nil, {SQL: way.at, Do: pgfault.CutBefore}, {SQL: way.at, Do: pgfault.CutAfterReply}} {
				name := way.name
				if fault != nil {
					v.proxy.Arm(fault)
					name += ", " + fault.Do.String()
				}
				call(name, func(r *record) { r.told(way.call(r)) })
				if fault != nil {
					fault.RequireFired(t)
				}
				call(name+", once more", func(r *record) { r.told(l.sql[group].Settle(ctx, guard.Int(r.Key), "again", outcome(r))) })
				key += int64(len(groups()))
			}
		}
		many := func(what string, do func([]*record)) {
			var records []*record
			for n := range 5 {
				records = append(records, &record{Call: fmt.Sprintf("call-%d-%d", key, n), Key: key + int64(n*len(groups()))})
			}
			do(records)
			for _, r := range records {
				tell(what, r)
			}
		}
		many("SettleMany", func(records []*record) { l.sweep(ctx, records) })
		key -= int64(len(groups())) // one of them is final
		many("SettleMany, beside one that is final", func(records []*record) { l.sweep(ctx, records) })
		many("Sweeper", func(records []*record) { l.runSweeper(ctx, records) })
		key = int64(group + 1)
	}
	lines = append(lines, v.delivered(t)...)
	require.Greater(t, len(lines), 100)
	return lines
}

// delivered is what a relay publishes, and what consumers do with that.
func (v *version) delivered(t *testing.T) (lines []string) {
	t.Helper()
	dice := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		step(t.Context(), v.direct, dice)
	}
	var mu sync.Mutex
	apply := inbox.Handle(v.inbox, func(ctx context.Context, tx pgx.Tx, e outbox.Event) error { return apply(ctx, tx, "inbox", e) })
	publisher := outbox.PublisherFunc(func(ctx context.Context, e outbox.Event) error {
		mu.Lock()
		defer mu.Unlock()
		_, err1 := apply(ctx, e)
		result, err2 := apply(ctx, e)
		lines = append(lines, fmt.Sprintf("published %s %s %s %s: %s the second time", e.AggregateType, e.AggregateID, e.Type, e.Payload, result.Outcome))
		return errors.Join(err1, err2)
	})
	w := worker{Name: "version"}
	r, err := relay.New(v.direct, publisher, w.subscribed(toNATS))
	require.NoError(t, err)
	c, err := relay.NewConsumer(v.direct, func(ctx context.Context, tx pgx.Tx, e outbox.Event) error {
		_, err := tx.Exec(ctx, "INSERT INTO effects (consumer, event) VALUES ($1, $2)", inside, e.ID)
		return err
	}, w.subscribed(inside))
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- runAll(ctx, []func(context.Context) error{r.Run, c.Run}) }()
	require.Eventually(t, func() bool {
		var all bool
		err := v.direct.QueryRow(t.Context(), "SELECT count(*) = (SELECT count(*) + count(*) FILTER (WHERE type <> 'completed') FROM endstate_outbox) FROM effects").Scan(&all)
		return err == nil && all
	}, time.Minute, 20*time.Millisecond, "all is delivered")
	stop()
	require.NoError(t, <-done)
	slices.SortStableFunc(lines, func(a, b string) int { // aggregates go side by side, each in its order
		var x, y [2]string
		_, _ = fmt.Sscanf(a, "published %s %s", &x[0], &x[1])
		_, _ = fmt.Sscanf(b, "published %s %s", &y[0], &y[1])
		return slices.Compare(x[:], y[:])
	})
	return lines
}
