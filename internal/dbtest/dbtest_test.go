package dbtest_test

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/internal/dbtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	ctx := context.Background()
	a, b := dbtest.Pool(t), dbtest.Pool(t)
	_, err := a.Exec(ctx, "CREATE TABLE x (n int)")
	require.NoError(t, err)
	var there bool
	require.NoError(t, b.QueryRow(ctx, "SELECT to_regclass('x') IS NOT NULL").Scan(&there))
	require.False(t, there)
}

func TestADatabaseGoesWithItsTest(t *testing.T) {
	ctx := context.Background()
	pool := dbtest.Pool(t)
	var name string
	t.Run("inner", func(t *testing.T) {
		db := dbtest.SQL(t)
		require.NoError(t, db.QueryRowContext(ctx, "SELECT current_database()").Scan(&name))
		conn, err := pool.Acquire(ctx)
		require.NoError(t, err)
		conn.Release()
	})
	var there bool
	require.NoError(t, pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&there))
	require.False(t, there)
}

func TestSQLiteIsAFileInWALMode(t *testing.T) {
	a, b := dbtest.SQLite(t), dbtest.SQLite(t)
	var mode string
	require.NoError(t, a.QueryRow("PRAGMA journal_mode").Scan(&mode))
	require.Equal(t, "wal", mode)
	var timeout int
	require.NoError(t, a.QueryRow("PRAGMA busy_timeout").Scan(&timeout))
	require.Equal(t, 10_000, timeout)
	_, err := a.Exec("CREATE TABLE x (n int)")
	require.NoError(t, err)
	_, err = b.Exec("CREATE TABLE x (n int)")
	require.NoError(t, err, "another file")
}

func TestPostgresSurvivesAnImmediateStop(t *testing.T) {
	ctx := context.Background()
	server := dbtest.StartPostgres(t)
	pool := dbtest.PoolOn(t, server.URL())
	_, err := pool.Exec(ctx, "CREATE TABLE x AS SELECT 1 AS n")
	require.NoError(t, err)

	server.Stop(true)
	_, err = pool.Exec(ctx, "SELECT 1")
	require.Error(t, err)
	require.NoError(t, server.Start())
	pool.Reset()
	var n int
	require.NoError(t, pool.QueryRow(ctx, "SELECT n FROM x").Scan(&n))
	require.Equal(t, 1, n)
}

func TestPgBouncerPoolsTransactions(t *testing.T) {
	ctx := context.Background()
	bouncer := dbtest.StartPgBouncer(t, dbtest.Postgres(t), "default_pool_size=1")
	pool := dbtest.PoolOn(t, bouncer.URL(), func(c *pgxpool.Config) {
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	})
	a, err := pool.Acquire(ctx)
	require.NoError(t, err)
	defer a.Release()
	b, err := pool.Acquire(ctx)
	require.NoError(t, err)
	defer b.Release()
	backend := func(c *pgxpool.Conn) (pid int) {
		require.NoError(t, c.QueryRow(ctx, "SELECT pg_backend_pid() + $1::int", 0).Scan(&pid))
		return pid
	}
	require.Equal(t, backend(a), backend(b), "two connections, one session")
}

func TestEachTestHasALogicalRedisOfItsOwn(t *testing.T) {
	ctx := context.Background()
	a, b := dbtest.Redis(t), dbtest.Redis(t)
	require.NoError(t, a.Set(ctx, "k", "a", 0).Err())
	require.Zero(t, b.DBSize(ctx).Val())
	require.NoError(t, b.FlushDB(ctx).Err())
	require.Equal(t, "a", a.Get(ctx, "k").Val())
}

func TestALogicalRedisGoesWithItsTest(t *testing.T) {
	ctx := context.Background()
	server := dbtest.StartRedis(t, "--databases", "4")
	t.Setenv("ENDSTATE_TEST_REDIS_URL", server.URL())
	theirs := dbtest.RedisOn(t, "redis://"+server.Addr()+"/2")
	require.NoError(t, theirs.Set(ctx, "k", "not a test's", 0).Err())
	for range 5 {
		t.Run("inner", func(t *testing.T) {
			databases := []int{dbtest.Redis(t).Options().DB, dbtest.Redis(t).Options().DB}
			require.ElementsMatch(t, []int{1, 3}, databases, "the claims are in 0, and 2 is in use")
			client := dbtest.RedisOn(t, "redis://"+server.Addr()+"/"+strconv.Itoa(databases[0]))
			require.Zero(t, client.DBSize(ctx).Val())
			require.NoError(t, client.Set(ctx, "left", "behind", 0).Err())
		})
	}
	require.Equal(t, "not a test's", theirs.Get(ctx, "k").Val())
	require.Zero(t, dbtest.RedisOn(t, server.URL()).DBSize(ctx).Val(), "no claim is left")
}

func TestRedisStartsEmptyAfterAKill(t *testing.T) {
	ctx := context.Background()
	server := dbtest.StartRedis(t)
	client := dbtest.RedisOn(t, server.URL())
	require.NoError(t, client.Set(ctx, "a", "b", 0).Err())
	server.Kill()
	require.Error(t, client.Get(ctx, "a").Err())
	require.NoError(t, server.Start())
	n, err := client.DBSize(ctx).Result()
	require.NoError(t, err)
	require.Zero(t, n)
}

// TestWithoutServers runs itself again in a process that has no servers.
func TestWithoutServers(t *testing.T) {
	const env = "ENDSTATE_TEST_WITHOUT"
	if os.Getenv(env) == "1" {
		t.Run("postgres", func(t *testing.T) { dbtest.Pool(t) })
		t.Run("redis", func(t *testing.T) { dbtest.Redis(t) })
		t.Run("own redis", func(t *testing.T) { dbtest.StartRedis(t) })
		return
	}
	run := func(require string) (string, error) {
		cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
		cmd.Env = []string{env + "=1", "PATH=" + t.TempDir(), "ENDSTATE_TEST_REQUIRE=" + require}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for name, needs := range map[string]string{
		"postgres":  "needs PostgreSQL: run make test, or set ENDSTATE_TEST_POSTGRES_URL",
		"redis":     "needs Redis: run make test, or set ENDSTATE_TEST_REDIS_URL",
		"own_redis": "needs redis-server: run make test, or set ENDSTATE_TEST_REDIS_BIN",
	} {
		said := "=== RUN   TestWithoutServers/" + name + `\n.*` + regexp.QuoteMeta(needs)
		out, err := run("")
		require.NoError(t, err, out)
		require.Regexp(t, said, out)
		require.Contains(t, out, "--- SKIP: TestWithoutServers/"+name)
		out, err = run("1")
		require.Error(t, err)
		require.Regexp(t, said, out)
		require.Contains(t, out, "--- FAIL: TestWithoutServers/"+name)
	}
}
