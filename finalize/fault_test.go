package finalize_test

import (
	"context"
	"database/sql"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/outbox"
)

// faulty is a finalizer whose connections go through a proxy that breaks them, and a way around the proxy.
type faulty struct {
	proxy     *pgfault.Proxy
	direct    *pgxpool.Pool
	call      func(ctx context.Context) (finalize.Receipt, error)
	callbacks atomic.Int32
	resolving func()       // called when a COMMIT got no answer
	resolved  atomic.Int32 // how often that happened
	rival     func(ctx context.Context) (finalize.Receipt, error)
}

// fault tells a case from another: who guards, with how many events, and through which call.
type faultCase struct {
	name   string
	guard  guard.Guard
	events bool
	call   string // "do", "settle" (both pgx), "sql"
}

func faultCases() []faultCase {
	var cases []faultCase
	for _, call := range []string{"do", "settle", "sql"} {
		cases = append(cases,
			faultCase{call + "/status", statusGuard(), true, call},
			faultCase{call + "/ledger", guard.Ledger{}, false, call},
			faultCase{call + "/all", guard.All(statusGuard(), guard.Ledger{}), true, call},
		)
	}
	return append(cases, faultCase{"do/own", ownGuard{}, true, "do"})
}

// commit is the statement at which the case's outcome takes effect.
func (c faultCase) commit() string {
	if c.call == "settle" {
		return "WITH endstate_settle0"
	}
	return "commit"
}

const faultKey = "batch-1"

func (c faultCase) setUp(t *testing.T, configure ...func(*finalize.Config)) *faulty {
	t.Helper()
	url := dbtest.Postgres(t)
	f := &faulty{proxy: pgfault.New(t, url), direct: dbtest.PoolOn(t, url), resolving: func() {}}
	_, err := f.direct.Exec(t.Context(), `CREATE TABLE batches (id text PRIMARY KEY, status text, note text)`)
	require.NoError(t, err)
	config := func() *finalize.Config {
		cfg := &finalize.Config{Aggregate: "batch", Guard: c.guard, Logger: discard(), Cache: finalize.CacheConfig{Off: true}, Trace: &finalize.Trace{
			Resolving: func(context.Context, finalize.Call, error) {
				f.resolved.Add(1)
				f.resolving()
			},
		}}
		for _, set := range configure {
			set(cfg)
		}
		return cfg
	}
	out := finalize.Outcome{State: "COMPLETE_STABLE"}
	if c.events {
		out.Events = []outbox.Event{{Type: "assessment.completed", Payload: []byte(`{}`)}, {Type: "assessment.result", Payload: []byte(`{}`)}}
	}
	around, err := finalize.New(f.direct, config())
	require.NoError(t, err)
	require.NoError(t, around.Migrate(t.Context()))
	f.rival = func(ctx context.Context) (finalize.Receipt, error) {
		return around.Settle(ctx, guard.Text(faultKey), "rival", finalize.Outcome{State: "ERROR_PROCESSING", Events: out.Events})
	}
	_, err = f.direct.Exec(t.Context(), `INSERT INTO batches VALUES ($1, 'PENDING')`, faultKey)
	require.NoError(t, err)

	if c.call == "sql" {
		fin, err := finalize.NewSQL(dbtest.SQLOn(t, f.proxy.URL()), config())
		require.NoError(t, err)
		f.call = func(ctx context.Context) (finalize.Receipt, error) {
			return fin.Do(ctx, guard.Text(faultKey), "caller", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
				f.callbacks.Add(1)
				return out, nil
			})
		}
		return f
	}
	fin, err := finalize.New(dbtest.PoolOn(t, f.proxy.URL()), config())
	require.NoError(t, err)
	f.call = func(ctx context.Context) (finalize.Receipt, error) {
		if c.call == "settle" {
			return fin.Settle(ctx, guard.Text(faultKey), "caller", out)
		}
		return fin.Do(ctx, guard.Text(faultKey), "caller", func(context.Context, pgx.Tx) (finalize.Outcome, error) {
			f.callbacks.Add(1)
			return out, nil
		})
	}
	return f
}

// cancelOnceHeld cancels once the server has done all that came before the held statement and waits for more: a request to
// cancel would break it off before.
func (f *faulty) cancelOnceHeld(ctx context.Context, fault *pgfault.Fault, cancel context.CancelFunc) {
	defer cancel()
	<-fault.Fired()
	for waiting := false; !waiting && ctx.Err() == nil; {
		_ = f.direct.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND wait_event = 'ClientRead')`).Scan(&waiting)
	}
}

// requireFinal checks invariants I1 and I2 on the rows: the state, and each event once.
func (f *faulty) requireFinal(t *testing.T, c faultCase, state string) {
	t.Helper()
	var n int
	if _, ledger := c.guard.(guard.Ledger); !ledger {
		require.NoError(t, f.direct.QueryRow(t.Context(), `SELECT count(*) FROM batches WHERE id = $1 AND status = $2`, faultKey, state).Scan(&n))
		require.Equal(t, 1, n, "the status")
	}
	if c.events {
		require.NoError(t, f.direct.QueryRow(t.Context(), `SELECT count(*) FROM endstate_outbox`).Scan(&n))
		require.Equal(t, 2, n, "the events")
	}
	if state != "" && (c.name == "do/ledger" || c.name == "do/all") {
		require.NoError(t, f.direct.QueryRow(t.Context(), `SELECT count(*) FROM endstate_ledger WHERE state = $1`, state).Scan(&n))
		require.Equal(t, 1, n, "the ledger")
	}
}

// wins calls, with a fault at the commit, and requires that the caller is told that it won.
func (c faultCase) wins(t *testing.T, do pgfault.Action, callbacks int32) {
	f := c.setUp(t)
	fault := f.proxy.Arm(&pgfault.Fault{SQL: c.commit(), Do: do})
	r, err := f.call(t.Context())
	fault.RequireFired(t)
	require.NoError(t, err)
	require.True(t, r.Won)
	require.Equal(t, "COMPLETE_STABLE", r.State)
	require.EqualValues(t, 1, f.resolved.Load(), "it was asked what became of the commit")
	if c.call != "settle" {
		require.Equal(t, callbacks, f.callbacks.Load(), "runs of the callback")
	}
	f.requireFinal(t, c, "COMPLETE_STABLE")

	again, err := f.call(t.Context())
	require.NoError(t, err)
	require.False(t, again.Won, "nobody wins twice")
	require.Equal(t, r.Token, again.Token)
	require.Equal(t, r.At, again.At)
}

// F2: the connection is cut before COMMIT is sent.
func TestCommitNeverArrived(t *testing.T) {
	for _, c := range faultCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.wins(t, pgfault.CutBefore, 2)
		})
	}
}

// F2: the connection is cut after COMMIT took effect.
func TestCommitTookEffectAndTheAnswerGotLost(t *testing.T) {
	for _, c := range faultCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.wins(t, pgfault.CutAfterReply, 1)
		})
	}
}

// F2: the connection is cut while the server works on COMMIT.
func TestConnectionLostWhileTheServerWorksOnTheCommit(t *testing.T) {
	for _, c := range faultCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.wins(t, pgfault.CutWhileWorking, 1)
		})
	}
}

// F2: the connection is cut in the middle of what goes out in one trip.
func TestPipelineCutBeforeItsSettle(t *testing.T) {
	c := faultCase{"do/all", guard.All(statusGuard(), guard.Ledger{}), true, "do"}
	f := c.setUp(t)
	fault := f.proxy.Arm(&pgfault.Fault{SQL: "WITH endstate_settle0", Do: pgfault.CutBefore})
	r, err := f.call(t.Context())
	fault.RequireFired(t)
	require.NoError(t, err)
	require.True(t, r.Won)
	f.requireFinal(t, c, "COMPLETE_STABLE")
}

// A rival finalizes between the lost COMMIT, which never arrived, and the question what became of it.
func TestCommitNeverArrivedAndARivalWon(t *testing.T) {
	for _, c := range faultCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := c.setUp(t)
			f.resolving = func() {
				f.resolving = func() {}
				r, err := f.rival(t.Context())
				require.NoError(t, err)
				require.True(t, r.Won)
			}
			fault := f.proxy.Arm(&pgfault.Fault{SQL: c.commit(), Do: pgfault.CutBefore})
			r, err := f.call(t.Context())
			fault.RequireFired(t)
			require.NoError(t, err)
			require.False(t, r.Won)
			require.Equal(t, "ERROR_PROCESSING", r.State)
			if r.Provenance {
				require.Equal(t, finalize.Trigger("rival"), r.Trigger)
			}
			f.requireFinal(t, c, "ERROR_PROCESSING")
		})
	}
}

// F2: with nothing durable that tells, the truth is that it isn't known.
func TestOutcomeUnknownWithoutAToken(t *testing.T) {
	for _, call := range []string{"do", "settle", "sql"} {
		t.Run(call+"/status alone", func(t *testing.T) {
			c := faultCase{call, statusGuard(), false, call}
			f := c.setUp(t)
			fault := f.proxy.Arm(&pgfault.Fault{SQL: c.commit(), Do: pgfault.CutAfterReply})
			_, err := f.call(t.Context())
			fault.RequireFired(t)
			require.ErrorIs(t, err, finalize.ErrOutcomeUnknown)
			f.requireFinal(t, c, "COMPLETE_STABLE")
			r, err := f.call(t.Context())
			require.NoError(t, err, "calling again is safe")
			require.False(t, r.Won)
		})
		t.Run(call+"/events deleted", func(t *testing.T) {
			c := faultCase{call, statusGuard(), true, call}
			f := c.setUp(t)
			fault := f.proxy.Arm(&pgfault.Fault{SQL: c.commit(), Do: pgfault.CutAfterReply})
			f.resolving = func() {
				<-fault.Answered()
				_, err := f.direct.Exec(t.Context(), `DELETE FROM endstate_outbox`)
				require.NoError(t, err)
			}
			_, err := f.call(t.Context())
			fault.RequireFired(t)
			require.ErrorIs(t, err, finalize.ErrOutcomeUnknown)
		})
	}
}

// A status that a rival set is no win either, and the aborted transaction's id tells so where no token does.
func TestAbortedTransactionOfStatusAloneIsLost(t *testing.T) {
	c := faultCase{"do", statusGuard(), false, "do"}
	f := c.setUp(t)
	f.resolving = func() {
		_, err := f.rival(t.Context())
		require.NoError(t, err)
	}
	fault := f.proxy.Arm(&pgfault.Fault{SQL: "commit", Do: pgfault.CutBefore})
	r, err := f.call(t.Context())
	fault.RequireFired(t)
	require.NoError(t, err)
	require.False(t, r.Won)
	require.Equal(t, "ERROR_PROCESSING", r.State)
}

// F2: the connection is cut, and there is no other.
func TestDatabaseStaysAway(t *testing.T) {
	for _, c := range faultCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := c.setUp(t, func(cfg *finalize.Config) { cfg.ResolveTimeout = 300 * time.Millisecond })
			f.resolving = func() {
				f.proxy.Refuse(true)
				f.proxy.CutAll()
			}
			fault := f.proxy.Arm(&pgfault.Fault{SQL: c.commit(), Do: pgfault.CutAfterReply})
			_, err := f.call(t.Context())
			fault.RequireFired(t)
			require.ErrorIs(t, err, finalize.ErrOutcomeUnknown)
			f.proxy.Refuse(false)
			r, err := f.call(t.Context())
			require.NoError(t, err, "calling again is safe")
			require.False(t, r.Won)
			f.requireFinal(t, c, "COMPLETE_STABLE")
		})
	}
}
