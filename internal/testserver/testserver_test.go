package testserver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// installed skips the test where a server isn't installed, unless all are required.
func installed(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, ErrMissing) && os.Getenv("ENDSTATE_TEST_REQUIRE") != "1" {
		t.Skip(err)
	}
	require.NoError(t, err)
}

func startPostgres(t *testing.T, settings ...string) *Postgres {
	t.Helper()
	p, err := StartPostgres(settings...)
	installed(t, err)
	t.Cleanup(p.Close)
	return p
}

func ask[T any](t *testing.T, url, query string) (answer T) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.NoError(t, conn.QueryRow(context.Background(), query).Scan(&answer))
	return answer
}

func TestPostgresKeepsDurabilityOn(t *testing.T) {
	p := startPostgres(t, "lock_timeout=1234ms")
	for setting, value := range map[string]string{"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "lock_timeout": "1234ms"} {
		require.Equal(t, value, ask[string](t, p.URL(), "SELECT current_setting('"+setting+"')"), setting)
	}
}

func TestPostgresKeepsWhatWasCommitted(t *testing.T) {
	p := startPostgres(t)
	ctx := context.Background()
	for name, end := range map[string]func(){
		"stop":           func() { p.Stop(false) },
		"immediate stop": func() { p.Stop(true) },
		"kill":           p.Kill,
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := pgx.Connect(ctx, p.URL())
			require.NoError(t, err)
			defer conn.Close(ctx)
			_, err = conn.Exec(ctx, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 42 AS n")
			require.NoError(t, err)
			end()
			require.Error(t, conn.Ping(ctx))
			_, err = pgx.Connect(ctx, p.URL())
			require.Error(t, err, "nobody listens where the server was")
			require.NoError(t, p.Start())
			require.Equal(t, 42, ask[int](t, p.URL(), "SELECT n FROM kept"))
		})
	}
}

func TestStartSaysWhyItFailed(t *testing.T) {
	_, err := PostgresBin()
	installed(t, err)
	_, err = StartPostgres("no_such_setting=1")
	require.ErrorContains(t, err, "no_such_setting")
}

func TestCloseRemovesTheFolder(t *testing.T) {
	r, err := StartRedis()
	installed(t, err)
	require.DirExists(t, r.place.dir)
	r.Close()
	require.NoDirExists(t, r.place.dir)
}

func TestAMissingServerIsNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("ENDSTATE_TEST_REDIS_BIN", "")
	_, err := StartRedis()
	require.ErrorIs(t, err, ErrMissing)
	require.ErrorContains(t, err, "redis-server")
}

func TestAWrongBinaryIsNamed(t *testing.T) {
	dir := t.TempDir()
	for env, find := range map[string]func() (string, error){
		"ENDSTATE_TEST_POSTGRES_BIN":  PostgresBin,
		"ENDSTATE_TEST_REDIS_BIN":     RedisBin,
		"ENDSTATE_TEST_PGBOUNCER_BIN": PgBouncerBin,
	} {
		t.Setenv(env, dir)
		_, err := find()
		require.ErrorContains(t, err, env+" is "+dir)
		require.NotErrorIs(t, err, ErrMissing, "installing wouldn't help")
	}
}

func TestOldVersionsDontCount(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "initdb")
	for version, major := range map[string]int{
		"initdb (PostgreSQL) 13.4 (Debian 13.4-1)": 13, "initdb (PostgreSQL) 18beta1": 18, "initdb (PostgreSQL) 9.6.2": 9, "": 0,
	} {
		require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\necho '"+version+"'\n"), 0o755))
		require.Equal(t, major, majorVersion(program), version)
	}
}

func TestPortsAreClaimed(t *testing.T) {
	seen := map[int]bool{}
	for range 200 {
		port, claim, err := ClaimPort()
		require.NoError(t, err)
		defer claim.Close()
		require.False(t, seen[port])
		seen[port] = true
	}
}

func TestReachable(t *testing.T) {
	dir := t.TempDir()
	open, closed := filepath.Join(dir, "open"), filepath.Join(dir, "closed")
	require.NoError(t, os.MkdirAll(filepath.Join(closed, "below"), 0o777))
	require.NoError(t, os.Mkdir(open, 0o711))
	require.NoError(t, os.Chmod(closed, 0o700))
	require.Equal(t, reachable(dir), reachable(open))
	require.False(t, reachable(closed))
	require.False(t, reachable(filepath.Join(closed, "below")))
	require.False(t, reachable(filepath.Join(dir, "absent")))
	require.True(t, reachable("/"))
}
