package pgfault_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

// recorder is a test that ends when it is told to, and that can fail.
type recorder struct {
	testing.TB
	cleanups []func()
	failures []string
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatal(args ...any) {
	r.failures = append(r.failures, fmt.Sprint(args...))
	panic(r)
}
func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }

func (r *recorder) end() {
	for _, f := range r.cleanups {
		f()
	}
}

func TestAFaultThatDidNotFireFailsTheTest(t *testing.T) {
	f := setUp(t)
	r := &recorder{TB: t}
	proxy := pgfault.New(r, f.database)
	conn, err := pgx.Connect(t.Context(), proxy.URL())
	require.NoError(t, err)
	fired := proxy.Arm(&pgfault.Fault{SQL: "SELECT 2", Do: pgfault.Delay})
	proxy.Arm(&pgfault.Fault{SQL: "SELECT 3", Do: pgfault.CutBefore})
	_, err = conn.Exec(t.Context(), "SELECT 2")
	require.NoError(t, err)
	fired.RequireFired(r)
	require.Empty(t, r.failures)
	require.NoError(t, conn.Close(t.Context()))
	r.end()
	require.Equal(t, []string{`pgfault: the fault CutBefore at "SELECT 3" was armed and did not fire`}, r.failures)
}

func TestRequireFiredAndAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fault := new(pgfault.Proxy).Arm(&pgfault.Fault{SQL: "SELECT 3", Do: pgfault.HalfOpen})
		r := &recorder{TB: t}
		require.Panics(t, func() { fault.RequireFired(r) })
		require.Panics(t, func() { fault.RequireAnswered(r) })
		require.Equal(t, []string{
			`pgfault: the fault HalfOpen at "SELECT 3" did not fire`,
			`pgfault: the fault HalfOpen at "SELECT 3" was not answered by the server`,
		}, r.failures)
	})
}

// However the connections stand when the test ends, nothing is left of them.
func TestNothingIsLeft(t *testing.T) {
	ctx := t.Context()
	f := setUp(t)
	require.NoError(t, f.direct.Ping(ctx))
	before := goleak.IgnoreCurrent()
	r := &recorder{TB: t}
	proxy := pgfault.New(r, f.database)

	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(ctx, proxy.URL())
		require.NoError(t, err)
		return conn
	}
	var conns []*pgx.Conn
	var results []<-chan error
	for i, do := range []pgfault.Action{pgfault.Hold, pgfault.HoldReply, pgfault.HalfOpen, pgfault.HalfOpenBefore, pgfault.Delay} {
		sql := fmt.Sprintf("SELECT %d", i)
		fault := proxy.Arm(&pgfault.Fault{SQL: sql, Do: do, For: time.Hour})
		conn := connect()
		conns = append(conns, conn)
		results = append(results, start(ctx, way{run: func(ctx context.Context) error {
			_, err := conn.Exec(ctx, sql)
			return err
		}}))
		fault.RequireFired(t)
	}
	busy, idle := connect(), connect()
	conns = append(conns, busy, idle)
	results = append(results, start(ctx, way{run: func(ctx context.Context) error {
		_, err := busy.Exec(ctx, "SELECT pg_sleep(600)")
		return err
	}}))
	f.requireSessions(t, 1, "active")
	proxy.BlackHole(true)
	results = append(results, start(ctx, way{run: func(ctx context.Context) error {
		_, err := pgx.Connect(ctx, proxy.URL())
		return err
	}}))

	r.end()
	require.Empty(t, r.failures)
	for _, result := range results {
		require.Error(t, <-result)
	}
	require.Error(t, idle.Ping(ctx))
	for _, conn := range conns {
		<-conn.PgConn().CleanupDone()
	}
	_, err := f.direct.Exec(ctx, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND datname = current_database()")
	require.NoError(t, err) // the server notices that a client is gone when it has something to say
	f.requireSessions(t, 0, "")
	goleak.VerifyNone(t, before)
}

func TestURL(t *testing.T) {
	for _, tt := range []struct{ given, want string }{
		{"postgres://u%40:p%2F@example.com/db?application_name=a%20b&sslmode=disable", "postgres://u%40:p%2F@HOST/db?application_name=a%20b&sslmode=disable"},
		{"postgresql://u@/db?host=/run/postgresql&port=1&sslmode=disable", "postgresql://u@HOST/db?sslmode=disable"},
		{"postgres://u@example.com:1/db", "postgres://u@HOST/db"},
	} {
		given := pgfault.New(t, tt.given).URL()
		u, err := url.Parse(given)
		require.NoError(t, err)
		require.Equal(t, tt.want, strings.Replace(given, u.Host, "HOST", 1))
	}
	for _, given := range []string{"postgres://u:secret@[/db", "host=localhost password=secret", "postgres://u:secret@localhost:x/db"} {
		r := &recorder{TB: t}
		require.Panics(t, func() { pgfault.New(r, given) })
		require.NotContains(t, strings.Join(r.failures, "\n"), "secret")
	}
}

// A password passes, by the challenge and response that PostgreSQL uses today.
// New connections go where a proxy leads, and those that are there stay.
func TestLead(t *testing.T) {
	name := func(conn *pgx.Conn) (name string) {
		require.NoError(t, conn.QueryRow(t.Context(), "SELECT inet_server_port()::text").Scan(&name))
		return name
	}
	connect := func(url string) *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		return conn
	}
	one, other := dbtest.StartPostgres(t), dbtest.StartPostgres(t)
	proxy := pgfault.New(t, one.URL())
	before := connect(proxy.URL())
	require.NoError(t, proxy.Lead(other.URL()))
	require.Equal(t, name(connect(one.URL())), name(before))
	require.Equal(t, name(connect(other.URL())), name(connect(proxy.URL())))
}

func TestPasswordsPass(t *testing.T) {
	ctx := t.Context()
	server := dbtest.StartPostgres(t)
	f := newFixture(t, dbtest.Database(t, server.URL()))
	var rules string
	require.NoError(t, f.direct.QueryRow(ctx, "SHOW hba_file").Scan(&rules))
	text, err := os.ReadFile(rules)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(rules, append([]byte("host all guest 127.0.0.1/32 scram-sha-256\n"), text...), 0o600))
	_, err = f.direct.Exec(ctx, "SET password_encryption = 'scram-sha-256'; CREATE ROLE guest LOGIN PASSWORD 'right'; SELECT pg_reload_conf()")
	require.NoError(t, err)
	connect := func(password string) error {
		u, err := url.Parse(f.proxy.URL())
		require.NoError(t, err)
		u.User = url.UserPassword("guest", password)
		conn, err := pgx.Connect(ctx, u.String())
		if err == nil {
			require.NoError(t, conn.Close(ctx))
		}
		return err
	}
	require.Eventually(t, func() bool { return connect("wrong") != nil }, time.Minute, 5*time.Millisecond, "the rule is in force")
	require.NoError(t, connect("right"))
}
