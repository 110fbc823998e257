package main

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/outbox/webhook"
)

// long is when a test gives up that something goes on.
const long = 3 * time.Minute

// F49: while the database is silent a relay isn't ready, and its log says that there are no figures; then it goes on.
func TestARelaySaysThatItsDatabaseIsSilent(t *testing.T) {
	url := dbtest.Postgres(t)
	db := dbtest.SQLOn(t, url)
	putEvents(t, url, db, event("7", "paid"))
	proxy := pgfault.New(t, url)
	var silent atomic.Bool
	proxy.Arm(&pgfault.Fault{Match: func(sql string) bool { return silent.Load() && strings.Contains(sql, "types FROM") }, Do: pgfault.HalfOpen, Times: 1_000_000})
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer hook.Close()
	r := startRelay(t, proxy.URL(), []string{secretsEnv + "=" + webhook.GenerateSecret()}, "--to", hook.URL, "--http", "127.0.0.1:0", "--figures", "50ms")
	says := func(from int, what string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(r.stderr.String()[from:], what) }, long, 10*time.Millisecond, "%s", &r.stderr)
	}
	says(0, `msg="relay: figures"`)
	base := "http://" + regexp.MustCompile(`http=(127.0.0.1:\d+)`).FindStringSubmatch(r.stderr.String())[1]
	ready := func() int {
		response, err := http.Get(base + "/readyz")
		require.NoError(t, err)
		response.Body.Close()
		return response.StatusCode
	}
	require.Eventually(t, func() bool { return ready() == http.StatusOK }, long, 10*time.Millisecond)
	silent.Store(true)
	require.Equal(t, http.StatusServiceUnavailable, ready())
	says(0, `msg="relay: no figures"`)
	silent.Store(false)
	says(len(r.stderr.String()), `msg="relay: figures"`)
	require.Equal(t, http.StatusOK, ready())
	r.terminate(t)
}

// F49: who takes an idle connection that has gone silent gets another one instead, and what holds one at the end is left behind.
func TestThePoolOutlivesASilentConnection(t *testing.T) {
	t.Parallel()
	proxy := pgfault.New(t, dbtest.Postgres(t))
	db, err := (&app{url: proxy.URL()}).open(t.Context(), reads)
	require.NoError(t, err)
	fault := proxy.Arm(&pgfault.Fault{SQL: "-- ping", Do: pgfault.HalfOpen})
	done := make(chan struct{})
	var held *pgxpool.Conn
	go func() {
		defer close(done)
		for fired := false; !fired; {
			select {
			case <-fault.Fired():
				fired = true
			case <-time.After(1100 * time.Millisecond): // a pool pings what was idle for longer than a second
			}
			if _, err := db.pool.Exec(t.Context(), "SELECT 1"); err != nil {
				t.Errorf("the other connection: %v", err)
			}
		}
		if held, err = db.pool.Acquire(t.Context()); err != nil {
			t.Errorf("acquire: %v", err)
		}
		db.close()
	}()
	select {
	case <-done:
	case <-time.After(long):
		t.Fatal("it waits for a connection that is silent, or held")
	}
	held.Release()
	db.close()
}
