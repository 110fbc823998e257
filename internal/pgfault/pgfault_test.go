package pgfault_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a table with one number, a proxy to its database, and a pool that doesn't go through the proxy.
type fixture struct {
	database string // its URL, for a proxy
	proxy    *pgfault.Proxy
	direct   *pgxpool.Pool
}

func setUp(t *testing.T) fixture {
	t.Helper()
	return newFixture(t, dbtest.Postgres(t))
}

func newFixture(t *testing.T, database string) fixture {
	t.Helper()
	direct := dbtest.PoolOn(t, database)
	_, err := direct.Exec(t.Context(), "CREATE TABLE n (n int); INSERT INTO n VALUES (0)")
	require.NoError(t, err)
	u, err := url.Parse(database)
	require.NoError(t, err)
	query := u.Query()
	query.Set("application_name", "through-the-proxy")
	u.RawQuery = query.Encode()
	return fixture{u.String(), pgfault.New(t, u.String()), direct}
}

// value is what is committed.
func (f fixture) value(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, f.direct.QueryRow(t.Context(), "SELECT n FROM n").Scan(&n))
	return n
}

// requireSessions waits until so many sessions of clients of the proxy are in a state ("" is any).
func (f fixture) requireSessions(t *testing.T, want int, state string) {
	t.Helper()
	var n int
	require.Eventually(t, func() bool {
		require.NoError(t, f.direct.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND application_name = 'through-the-proxy' AND ($1 = '' OR state = $1)`, state).Scan(&n))
		return n == want
	}, time.Minute, 5*time.Millisecond, "sessions in state %q", state)
}

const increment = "UPDATE n SET n = n + 1"

// way is one of the ways to increment the number.
type way struct {
	name string
	at   string // the statement at which it takes effect
	tx   bool   // it is in a transaction of several exchanges
	run  func(context.Context) error
}

// ways go through the proxy, on connections of their own.
func (f fixture) ways(t *testing.T) []way {
	t.Helper()
	pool := dbtest.PoolOn(t, f.proxy.URL())
	db := dbtest.SQLOn(t, f.proxy.URL())
	unnamed := dbtest.PoolOn(t, f.proxy.URL(), func(cfg *pgxpool.Config) { cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec })
	pipeline := func(pool *pgxpool.Pool) func(context.Context) error {
		return func(ctx context.Context) error {
			batch := &pgx.Batch{}
			for _, sql := range []string{"begin", increment, "commit"} {
				batch.Queue(sql)
			}
			return pool.SendBatch(ctx, batch).Close()
		}
	}
	execute := func(sql string, args ...any) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := pool.Exec(ctx, sql, args...)
			return err
		}
	}
	return []way{
		{"pgx", "commit", true, func(ctx context.Context) error {
			tx, err := pool.Begin(ctx)
			if err != nil {
				return err
			}
			defer tx.Rollback(context.WithoutCancel(ctx))
			if _, err := tx.Exec(ctx, increment); err != nil {
				return err
			}
			return tx.Commit(ctx)
		}},
		{"pgx, pipelined", "commit", false, pipeline(pool)},
		{"pgx, pipelined, unnamed statements", "commit", false, pipeline(unnamed)},
		{"pgx, one prepared statement", increment, false, execute(increment+" WHERE $1", true)},
		{"pgx, one simple query", increment, false, execute(increment)},
		{"database/sql", "commit", true, func(ctx context.Context) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if _, err := tx.ExecContext(ctx, increment); err != nil {
				return err
			}
			return tx.Commit()
		}},
		// With an argument, as it would be run twice without one: see TestDatabaseSQLRunsAnUpdateTwice.
		{"database/sql, one statement", increment, false, func(ctx context.Context) error {
			_, err := db.ExecContext(ctx, increment+" WHERE $1", true)
			return err
		}},
	}
}

// eachWay runs a test on each way. The number is 0 then, and the way's one connection is open, with its statements prepared.
func eachWay(t *testing.T, test func(t *testing.T, f fixture, w way)) {
	f := setUp(t)
	for i, name := range names(f.ways(t)) {
		t.Run(name, func(t *testing.T) {
			w := f.ways(t)[i]
			t.Cleanup(f.proxy.CutAll) // before the pools close, which would wait for what a failed test left held
			require.NoError(t, w.run(t.Context()), "unharmed at first")
			_, err := f.direct.Exec(t.Context(), "UPDATE n SET n = 0")
			require.NoError(t, err)
			f.requireSessions(t, 1, "idle")
			test(t, f, w)
		})
	}
}

func names(ways []way) []string {
	list := make([]string, len(ways))
	for i, w := range ways {
		list[i] = w.name
	}
	return list
}
