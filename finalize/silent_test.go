package finalize_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

// long is when a test gives up that something goes on.
const long = 3 * time.Minute

// F49: nobody waits for a sweep. It gives up a connection that has gone silent, says so, and a later one finalizes.
func TestASilentConnectionHoldsUpNoSweep(t *testing.T) {
	t.Parallel()
	for database, statements := range map[string][]string{
		"pgx": {"SELECT CAST(endstate_row", "begin", "INSERT INTO writes", "WITH RECURSIVE endstate_tables", "WITH endstate_settle0"},
		"sql": {"SELECT CAST(endstate_row", "begin", "SELECT pg_advisory_xact_lock", "INSERT INTO writes", "UPDATE", "commit"},
	} {
		if database == "sql" && !dbtest.GivesUp() {
			continue
		}
		for _, statement := range statements {
			t.Run(database+"/"+statement, func(t *testing.T) {
				t.Parallel()
				url := dbtest.Postgres(t)
				proxy := pgfault.New(t, url)
				options := append(sweeping(), configured(func(c *finalize.Config) { c.ClaimTimeout = 5 * time.Second }), param("idle_in_transaction_session_timeout", "2s"))
				w := newWorld(t, database, "all", url, options...)
				proxied := connect(t, database, "all", proxy.URL(), w.schema, options...)
				w.stuck("b1", "b2")
				swept := make(chan finalize.Swept)
				ctx, cancel := context.WithCancel(t.Context())
				proxied.trace.onSwept = func(s finalize.Swept) {
					select {
					case swept <- s:
					case <-ctx.Done():
					}
				}
				fault := proxy.Arm(&pgfault.Fault{SQL: statement, Do: pgfault.HalfOpen})
				s := proxied.newSweeper(completeAny, &finalize.SweeperConfig{Every: 20 * time.Millisecond, Timeout: 2 * time.Second})
				ended := make(chan error, 1)
				go func() { ended <- s.Run(ctx) }()
				told := false
				for patience := time.After(long); w.text("SELECT count(*) FROM batches WHERE status = 'COMPLETE_STABLE'")[0] != "2"; {
					select {
					case s := <-swept:
						told = told || s.Err != nil || s.Failed > 0
					case <-patience:
						t.Fatal("the sweeper is at a standstill")
					}
				}
				fault.RequireFired(t)
				cancel()
				require.NoError(t, <-ended)
				require.True(t, told || len(proxied.trace.resolving) > 0, "it says so")
				w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
				w.requireFinal("b2", "COMPLETE_STABLE", "batch.completed")
			})
		}
	}
}

// F49: one look at what became of a COMMIT doesn't use up the time of the others.
func TestALookOnASilentConnectionIsFollowedByAnother(t *testing.T) {
	for _, c := range faultCases() {
		if strings.HasPrefix(c.name, "sql") && !dbtest.GivesUp() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := c.setUp(t, func(cfg *finalize.Config) { cfg.ResolveTimeout = 20 * time.Second })
			look := &pgfault.Fault{SQL: "SELECT CASE WHEN NOT pg_is_in_recovery", Do: pgfault.HalfOpen}
			switch {
			case c.call == "settle":
				look.SQL = c.commit()
			case c.name == "do/own": // which has claimed before
				look.SQL, look.Skip = "begin", 1
			}
			lost := f.proxy.Arm(&pgfault.Fault{SQL: c.commit(), Do: pgfault.CutAfterReply})
			silent := f.proxy.Arm(look)
			r, err := f.call(t.Context())
			lost.RequireFired(t)
			silent.RequireFired(t)
			require.NoError(t, err)
			require.True(t, r.Won)
			f.requireFinal(t, c, "COMPLETE_STABLE")
		})
	}
}

// F49: a transaction of database/sql has a life apart from its caller's, and ends with it nonetheless.
func TestATransactionOnASilentConnectionEnds(t *testing.T) {
	t.Parallel()
	if !dbtest.GivesUp() {
		return
	}
	for _, statement := range []string{"begin", "rollback", "commit"} {
		t.Run(statement, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			proxy := pgfault.New(t, url)
			configure := configured(func(c *finalize.Config) { c.ResolveTimeout = time.Second })
			w := newWorld(t, "sql", "all", url, configure)
			proxied := connect(t, "sql", "all", proxy.URL(), w.schema, configure)
			w.open("b1")
			fault := proxy.Arm(&pgfault.Fault{SQL: statement, Do: pgfault.HalfOpen})
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() {
				_, err := proxied.do(ctx, guard.Text("b1"), "caller", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
					if statement == "rollback" {
						return finalize.Outcome{}, finalize.ErrNotReady
					}
					return complete("b1")(ctx, tx)
				})
				ended <- err
			}()
			fault.RequireFired(t)
			if statement != "rollback" {
				cancel(errors.New("the caller has gone"))
			}
			select {
			case err := <-ended:
				if statement != "commit" { // which took effect
					require.Error(t, err)
				}
			case <-time.After(long):
				t.Fatal("the call goes on")
			}
			cancel(nil)
			proxy.CutAll() // the server knows nothing of it
		})
	}
}

// F49: who is told to be too late for another call's sake must see that it may be the database's.
func TestASilentClaimSaysThatNoAnswerCame(t *testing.T) {
	t.Parallel()
	for database, statement := range map[string]string{"pgx": "begin", "sql": "SELECT pg_advisory_xact_lock"} {
		if !dbtest.Serves(database) || !dbtest.GivesUp() {
			continue
		}
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			proxy := pgfault.New(t, url)
			w := newWorld(t, database, "all", url)
			proxied := connect(t, database, "all", proxy.URL(), w.schema, configured(func(c *finalize.Config) { c.ClaimTimeout = 5 * time.Second }))
			w.open("b1")
			fault := proxy.Arm(&pgfault.Fault{SQL: statement, Do: pgfault.HalfOpen})
			_, err := proxied.do(t.Context(), guard.Text("b1"), "caller", never(t))
			fault.RequireFired(t)
			require.ErrorIs(t, err, finalize.ErrBusy)
			require.ErrorContains(t, err, "the database gives no answer")
			proxy.CutAll() // the server knows nothing of it
		})
	}
}
