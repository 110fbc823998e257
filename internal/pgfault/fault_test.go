package pgfault_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

// start runs a way and returns its error later.
func start(ctx context.Context, w way) <-chan error {
	result := make(chan error, 1)
	go func() { result <- w.run(ctx) }()
	return result
}

func requireRunning(t *testing.T, result <-chan error) {
	t.Helper()
	select {
	case err := <-result:
		require.Fail(t, "the client got an answer", "%v", err)
	default:
	}
}

func TestCutBefore(t *testing.T) {
	eachWay(t, func(t *testing.T, f fixture, w way) {
		fault := f.proxy.Arm(&pgfault.Fault{SQL: w.at, Do: pgfault.CutBefore})
		require.Error(t, w.run(t.Context()))
		fault.RequireFired(t)
		f.requireSessions(t, 0, "idle in transaction")
		require.Equal(t, 0, f.value(t))
		require.NoError(t, w.run(t.Context()), "unharmed afterwards")
		require.Equal(t, 1, f.value(t))
	})
}

func TestCutAfterReply(t *testing.T) {
	eachWay(t, func(t *testing.T, f fixture, w way) {
		fault := f.proxy.Arm(&pgfault.Fault{SQL: w.at, Do: pgfault.CutAfterReply})
		require.Error(t, w.run(t.Context()))
		fault.RequireFired(t)
		fault.RequireAnswered(t)
		require.Equal(t, 1, f.value(t), "it took effect")
		require.NoError(t, w.run(t.Context()), "unharmed afterwards")
		require.Equal(t, 2, f.value(t))
	})
}

func TestCutWhileWorking(t *testing.T) {
	eachWay(t, func(t *testing.T, f fixture, w way) {
		fault := f.proxy.Arm(&pgfault.Fault{SQL: w.at, Do: pgfault.CutWhileWorking})
		require.Error(t, w.run(t.Context()))
		fault.RequireFired(t)
		fault.RequireAnswered(t)
		require.Equal(t, 1, f.value(t), "it took effect")
	})
}

// The client is told at once, while the statement waits for a lock; the cancel request that it sends then changes nothing.
func TestCutWhileWorkingLeavesTheServerToFinish(t *testing.T) {
	ctx := t.Context()
	f := setUp(t)
	conn, err := pgx.Connect(ctx, f.proxy.URL())
	require.NoError(t, err)
	lock, err := f.direct.Begin(ctx)
	require.NoError(t, err)
	defer lock.Rollback(context.Background())
	_, err = lock.Exec(ctx, "SELECT FROM n FOR UPDATE")
	require.NoError(t, err)

	fault := f.proxy.Arm(&pgfault.Fault{SQL: increment, Do: pgfault.CutWhileWorking})
	_, err = conn.Exec(ctx, increment)
	require.Error(t, err)
	fault.RequireFired(t)
	<-conn.PgConn().CleanupDone() // the cancel request was sent
	f.requireSessions(t, 1, "active")
	require.Equal(t, 0, f.value(t))

	require.NoError(t, lock.Commit(ctx))
	fault.RequireAnswered(t)
	require.Equal(t, 1, f.value(t))
	f.requireSessions(t, 0, "")
}

func TestHold(t *testing.T) {
	eachWay(t, func(t *testing.T, f fixture, w way) {
		fault := f.proxy.Arm(&pgfault.Fault{SQL: w.at, Do: pgfault.Hold})
		result := start(t.Context(), w)
		fault.RequireFired(t)
		if w.tx {
			f.requireSessions(t, 1, "idle in transaction")
		}
		require.Equal(t, 0, f.value(t))
		requireRunning(t, result)
		fault.Release()
		require.NoError(t, <-result)
		require.Equal(t, 1, f.value(t))
	})
}

// What is held takes effect though its client has given up: a COMMIT that was on its way.
func TestHoldOutlivesTheClient(t *testing.T) {
	eachWay(t, func(t *testing.T, f fixture, w way) {
		ctx, cancel := context.WithCancel(t.Context())
		fault := f.proxy.Arm(&pgfault.Fault{SQL: w.at, Do: pgfault.Hold})
		result := start(ctx, w)
		fault.RequireFired(t)
		cancel()
		require.ErrorIs(t, <-result, context.Canceled)
		require.Equal(t, 0, f.value(t))
		fault.Release()
		require.Eventually(t, func() bool { return f.value(t) == 1 }, time.Minute, 5*time.Millisecond)
	})
}

func TestHoldReply(t *testing.T) {
	eachWay(t, func(t *testing.T, f fixture, w way) {
		fault := f.proxy.Arm(&pgfault.Fault{SQL: w.at, Do: pgfault.HoldReply})
		result := start(t.Context(), w)
		fault.RequireFired(t)
		fault.RequireAnswered(t)
		require.Equal(t, 1, f.value(t))
		requireRunning(t, result)
		fault.Release()
		require.NoError(t, <-result)
		require.NoError(t, w.run(t.Context()), "the connection goes on")
		require.Equal(t, 2, f.value(t))
	})
}

func TestHalfOpenBefore(t *testing.T) {
	eachWay(t, func(t *testing.T, f fixture, w way) {
		ctx, cancel := context.WithCancel(t.Context())
		fault := f.proxy.Arm(&pgfault.Fault{SQL: w.at, Do: pgfault.HalfOpenBefore})
		result := start(ctx, w)
		fault.RequireFired(t)
		requireRunning(t, result)
		cancel()
		require.ErrorIs(t, <-result, context.Canceled)
		if w.tx {
			f.requireSessions(t, 1, "idle in transaction") // the server doesn't know
		}
		f.proxy.CutAll()
		f.requireSessions(t, 0, "")
		require.Equal(t, 0, f.value(t))
	})
}

func TestHalfOpen(t *testing.T) {
	eachWay(t, func(t *testing.T, f fixture, w way) {
		ctx, cancel := context.WithCancel(t.Context())
		fault := f.proxy.Arm(&pgfault.Fault{SQL: w.at, Do: pgfault.HalfOpen})
		result := start(ctx, w)
		fault.RequireFired(t)
		fault.RequireAnswered(t)
		require.Equal(t, 1, f.value(t))
		requireRunning(t, result)
		cancel()
		require.ErrorIs(t, <-result, context.Canceled)
		f.requireSessions(t, 1, "idle") // the server doesn't know
		f.proxy.CutAll()
		f.requireSessions(t, 0, "")
	})
}

func TestDelay(t *testing.T) {
	eachWay(t, func(t *testing.T, f fixture, w way) {
		const delay = 30 * time.Millisecond
		fault := f.proxy.Arm(&pgfault.Fault{SQL: w.at, Do: pgfault.Delay, For: delay})
		begun := time.Now()
		require.NoError(t, w.run(t.Context()))
		fault.RequireFired(t)
		require.GreaterOrEqual(t, time.Since(begun), delay)
		require.Equal(t, 1, f.value(t))
	})
}

// A half-open connection is just that: the client doesn't learn that the server has ended the session.
func TestHalfOpenHidesTheServersClose(t *testing.T) {
	f := setUp(t)
	conn, err := pgx.Connect(t.Context(), f.proxy.URL())
	require.NoError(t, err)
	fault := f.proxy.Arm(&pgfault.Fault{SQL: increment, Do: pgfault.HalfOpen})
	ctx, cancel := context.WithCancel(t.Context())
	result := start(ctx, way{run: func(ctx context.Context) error {
		_, err := conn.Exec(ctx, increment)
		return err
	}})
	fault.RequireFired(t)
	fault.RequireAnswered(t)
	_, err = f.direct.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'through-the-proxy' AND datname = current_database()")
	require.NoError(t, err)
	f.requireSessions(t, 0, "")
	requireRunning(t, result)
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	<-conn.PgConn().CleanupDone()
}

// What was sent before a fault's statement, with a Sync of its own, is forwarded and answered.
func TestEarlierExchangesAreAnswered(t *testing.T) {
	ctx := t.Context()
	for _, do := range []pgfault.Action{pgfault.CutAfterReply, pgfault.CutWhileWorking, pgfault.HoldReply, pgfault.HalfOpen} {
		t.Run(do.String(), func(t *testing.T) {
			f := setUp(t)
			conn, err := pgx.Connect(ctx, f.proxy.URL())
			require.NoError(t, err)
			fault := f.proxy.Arm(&pgfault.Fault{SQL: increment, Do: do, Match: func(sql string) bool { return strings.HasSuffix(sql, "+ 1") }})
			pipeline := conn.PgConn().StartPipeline(ctx)
			pipeline.SendQueryParams(increment+" + 0", nil, nil, nil, nil)
			require.NoError(t, pipeline.Sync())
			_, err = pipeline.GetResults()
			require.NoError(t, err)
			_, err = pipeline.GetResults() // the end of the first exchange
			require.NoError(t, err)
			pipeline.SendQueryParams("SELECT pg_sleep(0.1)", nil, nil, nil, nil)
			require.NoError(t, pipeline.Sync())
			pipeline.SendQueryParams(increment, nil, nil, nil, nil)
			require.NoError(t, pipeline.Sync())
			fault.RequireFired(t)
			fault.RequireAnswered(t)
			require.Equal(t, 2, f.value(t))
			if do != pgfault.CutWhileWorking {
				result, err := pipeline.GetResults()
				require.NoError(t, err)
				_, err = result.(*pgconn.ResultReader).Close()
				require.NoError(t, err)
			}
			f.proxy.CutAll()
			require.Error(t, pipeline.Close())
		})
	}
}

// The server's last words arrive.
func TestServersErrorArrives(t *testing.T) {
	f := setUp(t)
	pool := dbtest.PoolOn(t, f.proxy.URL())
	for range 20 {
		_, err := pool.Exec(t.Context(), "SELECT pg_terminate_backend(pg_backend_pid())")
		require.ErrorContains(t, err, "57P01")
	}
}

func TestSkipTimesAndMatch(t *testing.T) {
	ctx := t.Context()
	f := setUp(t)
	pool := dbtest.PoolOn(t, f.proxy.URL())
	fault := f.proxy.Arm(&pgfault.Fault{SQL: "update", Skip: 1, Times: 2, Match: func(sql string) bool { return sql != increment+"0" }})
	var failed []bool
	for _, sql := range []string{increment + "0", increment, "SELECT '" + increment + "'", increment, increment + "0", strings.ToUpper(increment), increment} {
		_, err := pool.Exec(ctx, sql)
		failed = append(failed, err != nil)
	}
	fault.RequireFired(t)
	require.Equal(t, []bool{false, false, false, true, false, true, false}, failed)
	require.Equal(t, 22, f.value(t))
}

// A statement's name can be given to another statement.
func TestStatementNamesAreReused(t *testing.T) {
	ctx := t.Context()
	f := setUp(t)
	conn, err := pgx.Connect(ctx, f.proxy.URL())
	require.NoError(t, err)
	defer conn.Close(context.Background())
	fault := f.proxy.Arm(&pgfault.Fault{SQL: increment, Do: pgfault.CutBefore})
	for _, sql := range []string{increment + " WHERE false", "SELECT 1"} {
		_, err = conn.Prepare(ctx, "name", sql) // which isn't running it
		require.NoError(t, err)
		if sql == "SELECT 1" {
			_, err = conn.Exec(ctx, "name")
			require.NoError(t, err)
		}
		require.NoError(t, conn.Deallocate(ctx, "name"))
	}
	_, err = conn.Prepare(ctx, "name", increment)
	require.NoError(t, err)
	_, err = conn.Exec(ctx, "name")
	require.Error(t, err)
	fault.RequireFired(t)
	require.Equal(t, 0, f.value(t))
}

func TestFaultsOfSeveralConnectionsAtOnce(t *testing.T) {
	f := setUp(t)
	pool := dbtest.PoolOn(t, f.proxy.URL(), func(cfg *pgxpool.Config) { cfg.MaxConns = 8 })
	fault := f.proxy.Arm(&pgfault.Fault{SQL: increment, Do: pgfault.CutBefore, Times: 10})
	w := way{run: func(ctx context.Context) error {
		_, err := pool.Exec(ctx, increment+" WHERE $1", true)
		return err
	}}
	var results []<-chan error
	for range 40 {
		results = append(results, start(t.Context(), w))
	}
	var failures int
	for _, result := range results {
		if <-result != nil {
			failures++
		}
	}
	fault.RequireFired(t)
	require.Equal(t, 10, failures)
	require.Equal(t, 30, f.value(t))
}
