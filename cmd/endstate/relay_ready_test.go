package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox/webhook"
)

// A relay isn't ready by another one's lease, which may have its name: two of one configuration, or the one that was killed in the
// container before; nor when it has been told to stop, while it lets what is in flight finish.
func TestARelayIsReadyByItsOwnLease(t *testing.T) {
	db := dbtest.SQLite(t)
	url := sqlitePath(t, db)
	for n := range 32 { // of which each half of the partitions has some
		putEvents(t, url, db, event(fmt.Sprint(n), "paid"))
	}
	arrived, answer := make(chan struct{}, 32), make(chan struct{})
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-answer
	}))
	defer hook.Close()
	release := sync.OnceFunc(func() { close(answer) })
	defer release()
	mustExec(t, db, "INSERT INTO endstate_outbox_subscriptions (name, types, destination, start) VALUES ('default', '[]', '"+hook.URL+"', 'begin')",
		"INSERT INTO endstate_outbox_relays (id, subscription, name, expires_at) VALUES ('"+uuid.NewString()+"', 'default', 'shop', '2999-01-01T00:00:00.000Z')")
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE") // so that nobody else can take a lease
	require.NoError(t, err)

	r := startRelay(t, url, []string{secretsEnv + "=" + webhook.GenerateSecret()}, "--to", hook.URL, "--name", "shop", "--http", "127.0.0.1:0")
	require.Eventually(t, func() bool { return strings.Contains(r.stderr.String(), "relay: serving") }, time.Minute, 10*time.Millisecond, "%s", &r.stderr)
	base := "http://" + regexp.MustCompile(`http=(127.0.0.1:\d+)`).FindStringSubmatch(r.stderr.String())[1]
	var ready []readiness
	get := func() int {
		response, err := http.Get(base + "/readyz")
		require.NoError(t, err)
		defer response.Body.Close()
		ready = nil
		require.NoError(t, json.NewDecoder(response.Body).Decode(&ready))
		return response.StatusCode
	}
	require.Equal(t, http.StatusServiceUnavailable, get())
	require.Equal(t, []readiness{{Subscription: "default", Why: "it has no lease yet"}}, ready)
	_, err = conn.ExecContext(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return get() == http.StatusOK && ready[0].Partitions == 4 }, time.Minute, 10*time.Millisecond, "the other one has its share; %s", &r.stderr)
	<-arrived
	require.NoError(t, r.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool { return get() == http.StatusServiceUnavailable }, time.Minute, 10*time.Millisecond)
	require.Equal(t, []readiness{{Subscription: "default", Why: "it is stopping"}}, ready)
	release()
	res := r.wait(t)
	require.Zero(t, res.status, "%+v", res)
}
