package inbox_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// throughProxy makes a consumer whose connections a proxy can break; the test's own go around it.
func throughProxy(t *testing.T, database string, options ...option) (*consumer, *pgfault.Proxy) {
	t.Helper()
	var proxy *pgfault.Proxy
	c := connect(t, "table", database, dbtest.Postgres(t), "", append(options, func(s *setup) {
		s.via = func(url string) string {
			proxy = pgfault.New(t, url)
			return proxy.URL()
		}
	})...)
	return c, proxy
}

// F24: the connection is cut around COMMIT: the delivery fails, which isn't counted against the event, and the next one finds
// out what became of it.
func TestALostCommitIsFoundOutByTheNextDelivery(t *testing.T) {
	for _, database := range []string{"pgx", "sql"} {
		for _, tt := range []struct {
			do        pgfault.Action
			committed bool
		}{{pgfault.CutBefore, false}, {pgfault.CutWhileWorking, true}, {pgfault.CutAfterReply, true}} {
			t.Run(database+"/"+tt.do.String(), func(t *testing.T) {
				t.Parallel()
				c, proxy := throughProxy(t, database)
				handle := c.way(charge)
				_, err := handle(t.Context(), event()) // warm
				require.NoError(t, err)
				e := event()
				fault := proxy.Arm(&pgfault.Fault{SQL: "commit", Do: tt.do})
				_, err = handle(t.Context(), e)
				require.Error(t, err)
				require.False(t, inbox.Permanent(err))
				fault.RequireFired(t)
				want := inbox.Applied
				if tt.committed {
					fault.RequireAnswered(t)
					want = inbox.Repeated
				}
				require.Zero(t, c.count(`SELECT count(*) FROM endstate_inbox WHERE state <> 'handled'`))
				r, err := handle(t.Context(), e)
				require.NoError(t, err)
				require.Equal(t, want, r.Outcome)
				require.Equal(t, 1, c.count(`SELECT count(*) FROM credits WHERE event = $1`, e.ID.String()))
			})
		}
	}
}

// The connection is lost in the function: its next statement fails, and nothing of it remains.
func TestALostConnectionLeavesNothing(t *testing.T) {
	for _, database := range []string{"pgx", "sql"} {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			c, proxy := throughProxy(t, database)
			e := event()
			fault := proxy.Arm(&pgfault.Fault{SQL: "INSERT INTO credits", Do: pgfault.CutAfterReply})
			_, err := c.way(charge)(t.Context(), e)
			require.Error(t, err)
			fault.RequireFired(t)
			eventually(t, "the server rolls back", func() bool {
				return c.count(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'`) == 0
			})
			require.Zero(t, c.credits())
			r, err := c.way(charge)(t.Context(), e)
			require.NoError(t, err)
			require.Equal(t, inbox.Applied, r.Outcome)
			require.Equal(t, 1, c.credits())
		})
	}
}

// The database is away: no attempt is counted, and nothing is lost.
func TestADatabaseThatIsAwayCountsNoAttempt(t *testing.T) {
	t.Parallel()
	c, proxy := throughProxy(t, "pgx")
	e := event()
	proxy.Refuse(true)
	proxy.CutAll()
	called := false
	_, err := c.way(func(context.Context, endstate.Querier, outbox.Event) error { called = true; return nil })(t.Context(), e)
	require.Error(t, err)
	require.False(t, called)
	proxy.Refuse(false)
	require.Zero(t, c.count(`SELECT count(*) FROM endstate_inbox`))
	r, err := c.way(charge)(t.Context(), e)
	require.NoError(t, err)
	require.Equal(t, inbox.Applied, r.Outcome)
}

// On a warm connection: one trip to begin and record, the function's own, and one to commit; two for a repeat.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	// A pool pings what was idle for a second, as it may be on a busy machine.
	c, proxy := throughProxy(t, "pgx", func(s *setup) { s.unpinged = true })
	handle := c.way(charge)
	deliver := func(e outbox.Event, want inbox.Outcome) func() {
		return func() {
			r, err := handle(t.Context(), e)
			require.NoError(t, err)
			require.Equal(t, want, r.Outcome)
		}
	}
	e := event()
	warm := event()
	deliver(warm, inbox.Applied)() // prepares the statements
	deliver(warm, inbox.Repeated)()
	trips := proxy.Trips(deliver(e, inbox.Applied))
	require.Len(t, trips, 3, "%q", trips)
	trips = proxy.Trips(deliver(e, inbox.Repeated))
	require.Len(t, trips, 2, "%q", trips)
}

// F49: a delivery ends with its caller's context, also on a connection that has gone silent, and its rollback by itself.
func TestADeliveryOnASilentConnectionEnds(t *testing.T) {
	t.Parallel()
	for _, database := range []string{"pgx", "sql"} {
		if database == "sql" && !dbtest.GivesUp() {
			continue
		}
		for _, statement := range []string{"begin", "INSERT INTO credits", "commit", "rollback"} {
			t.Run(database+"/"+statement, func(t *testing.T) {
				t.Parallel()
				c, proxy := throughProxy(t, database)
				defer proxy.CutAll() // the server knows nothing of it
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				fault := proxy.Arm(&pgfault.Fault{SQL: statement, Do: pgfault.HalfOpen})
				ended := make(chan error, 1)
				go func() {
					_, err := c.way(func(ctx context.Context, tx endstate.Querier, e outbox.Event) error {
						if statement == "rollback" {
							return errors.New("no such account")
						}
						return charge(ctx, tx, e)
					})(ctx, event())
					ended <- err
				}()
				fault.RequireFired(t)
				if statement != "rollback" {
					cancel()
				}
				select {
				case err := <-ended:
					require.Error(t, err)
				case <-time.After(2 * time.Minute):
					t.Fatal("the delivery goes on")
				}
			})
		}
	}
}

// F6: two functions that lock two rows in opposite order: the database breaks one off, and it runs again.
func TestADeadlockRunsTheFunctionAgain(t *testing.T) {
	for _, database := range []string{"pgx", "sql"} {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			c := newConsumer(t, "table", database)
			c.exec(`INSERT INTO batches VALUES ('batch-2', 'PENDING')`)
			events := []outbox.Event{event(), event()}
			arrived := make(chan struct{}, 2)
			both := make(chan struct{})
			go func() {
				<-arrived
				<-arrived
				close(both)
				for range arrived { // the second run of either
				}
			}()
			defer close(arrived)
			runs := make(chan int, 20)
			errs := make([]error, 2)
			dbtest.AtOnce(2, func(i int) {
				order := [][]string{{"batch-1", "batch-2"}, {"batch-2", "batch-1"}}[i]
				_, errs[i] = c.way(func(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
					runs <- i
					for n, id := range order {
						if _, err := tx.Exec(ctx, `UPDATE batches SET status = status WHERE id = $1`, id); err != nil {
							return err
						}
						if n == 0 {
							arrived <- struct{}{}
							<-both
						}
					}
					return charge(ctx, tx, event)
				})(t.Context(), events[i])
			})
			require.NoError(t, errors.Join(errs...))
			require.Greater(t, len(runs), 2, "the deadlock happened")
			require.Equal(t, 2, c.credits())
		})
	}
}
