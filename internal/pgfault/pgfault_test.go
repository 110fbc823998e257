package pgfault_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a table, a proxy to its database, and a pool that doesn't go through the proxy.
type fixture struct {
	proxy  *pgfault.Proxy
	direct *pgxpool.Pool
}

func setUp(t *testing.T) fixture {
	url := dbtest.Postgres(t)
	direct := dbtest.PoolOn(t, url)
	_, err := direct.Exec(t.Context(), "CREATE TABLE n (n int); INSERT INTO n VALUES (0)")
	require.NoError(t, err)
	return fixture{pgfault.New(t, url), direct}
}

func (f fixture) value(t *testing.T) (n int) {
	require.NoError(t, f.direct.QueryRow(t.Context(), "SELECT n FROM n").Scan(&n))
	return n
}

const increment = "UPDATE n SET n = n + 1"

// ways of committing one increment.
func ways(t *testing.T, f fixture) map[string]func(context.Context) error {
	pool := dbtest.PoolOn(t, f.proxy.URL())
	db := dbtest.SQLOn(t, f.proxy.URL())
	return map[string]func(context.Context) error{
		"pgx": func(ctx context.Context) error {
			return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, increment)
				return err
			})
		},
		"pipelined": func(ctx context.Context) error {
			batch := &pgx.Batch{}
			for _, sql := range []string{"begin", increment, "commit"} {
				batch.Queue(sql)
			}
			return pool.SendBatch(ctx, batch).Close()
		},
		"database/sql": func(ctx context.Context) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if _, err := tx.ExecContext(ctx, increment); err != nil {
				return err
			}
			return tx.Commit()
		},
	}
}

func TestFaultsAtCommit(t *testing.T) {
	for _, tt := range []struct {
		name      string
		do        pgfault.Action
		committed bool
	}{
		{"cut before", pgfault.CutBefore, false},
		{"cut after the reply", pgfault.CutAfterReply, true},
		{"cut while working", pgfault.CutWhileWorking, true},
	} {
		for way := range ways(t, setUp(t)) {
			t.Run(tt.name+"/"+way, func(t *testing.T) {
				f := setUp(t)
				commit := ways(t, f)[way]
				require.NoError(t, commit(t.Context()), "unharmed at first")
				fault := f.proxy.Arm(&pgfault.Fault{SQL: "commit", Do: tt.do})
				require.Error(t, commit(t.Context()))
				fault.RequireFired(t)
				want := 1
				if tt.committed {
					<-fault.Answered()
					want = 2
				}
				require.Equal(t, want, f.value(t))
				require.NoError(t, commit(t.Context()), "unharmed afterwards")
			})
		}
	}
}

func TestHoldOutlivesTheClient(t *testing.T) {
	f := setUp(t)
	pool := dbtest.PoolOn(t, f.proxy.URL())
	fault := f.proxy.Arm(&pgfault.Fault{SQL: increment, Do: pgfault.Hold})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := pool.Exec(ctx, increment+" WHERE $1", true)
		failed <- err
	}()
	fault.RequireFired(t)
	cancel()
	require.Error(t, <-failed)
	require.Equal(t, 0, f.value(t))
	fault.Release()
	require.Eventually(t, func() bool { return f.value(t) == 1 }, 10*time.Second, 5*time.Millisecond)
}

func TestHalfOpenHangsUntilTheContextEnds(t *testing.T) {
	f := setUp(t)
	pool := dbtest.PoolOn(t, f.proxy.URL())
	fault := f.proxy.Arm(&pgfault.Fault{SQL: increment, Do: pgfault.HalfOpen})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := pool.Exec(ctx, increment)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	fault.RequireFired(t)
}

func TestRefuseAndCutAll(t *testing.T) {
	f := setUp(t)
	pool := dbtest.PoolOn(t, f.proxy.URL())
	require.NoError(t, pool.Ping(t.Context()))
	f.proxy.Refuse(true)
	f.proxy.CutAll()
	require.Error(t, pool.Ping(t.Context()))
	f.proxy.Refuse(false)
	require.NoError(t, pool.Ping(t.Context()))
}

func TestTrips(t *testing.T) {
	ctx := t.Context()
	f := setUp(t)
	pool := dbtest.PoolOn(t, f.proxy.URL())
	all := ways(t, f)
	for name, want := range map[string]int{"pgx": 3, "pipelined": 1} {
		require.NoError(t, all[name](ctx)) // prepares statements
		trips := f.proxy.Trips(func() { require.NoError(t, all[name](ctx)) })
		require.Len(t, trips, want, name)
	}
	require.NoError(t, pool.QueryRow(ctx, "SELECT $1::int", 1).Scan(new(int)))
	require.Len(t, f.proxy.Trips(func() { require.NoError(t, pool.QueryRow(ctx, "SELECT $1::int", 1).Scan(new(int))) }), 1)
}

// pgconn.SafeToRetry answers for what it saw, and it doesn't see that a COMMIT which was sent took effect. That is why the
// library never asks it once anything was sent. When this test fails, pgx has changed: look at what it says now.
func TestSafeToRetryLies(t *testing.T) {
	f := setUp(t)
	conn, err := pgx.Connect(t.Context(), f.proxy.URL())
	require.NoError(t, err)
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), increment)
	require.NoError(t, err)
	fault := f.proxy.Arm(&pgfault.Fault{SQL: "commit", Do: pgfault.CutAfterReply})
	err = tx.Commit(t.Context())
	require.Error(t, err)
	fault.RequireFired(t)
	<-fault.Answered()
	require.Equal(t, 1, f.value(t), "committed")
	require.True(t, pgconn.SafeToRetry(err), "and yet said to be safe to retry: %v", err)
}

// database/sql runs a statement again when its driver says that the connection was bad, and pgx says so by SafeToRetry.
func TestDatabaseSQLRunsAnUpdateTwice(t *testing.T) {
	f := setUp(t)
	db, err := sql.Open("pgx", f.proxy.URL())
	require.NoError(t, err)
	defer db.Close()
	fault := f.proxy.Arm(&pgfault.Fault{SQL: increment, Do: pgfault.CutAfterReply})
	_, err = db.ExecContext(t.Context(), increment)
	require.NoError(t, err, "one call, no error")
	fault.RequireFired(t)
	require.Equal(t, 2, f.value(t), "two updates")
}
