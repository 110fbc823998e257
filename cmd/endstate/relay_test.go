package main

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/natsjs"
	"github.com/endstate-go/endstate/outbox/outboxtest"
	"github.com/endstate-go/endstate/outbox/redisstream"
	"github.com/endstate-go/endstate/outbox/webhook"
)

// startRelay starts a relay with environment variables of its own.
func startRelay(t *testing.T, db string, env []string, args ...string) *running {
	t.Helper()
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
	return start(t, db, append([]string{"relay", "--poll-interval", "50ms"}, args...)...)
}

// terminate sends SIGTERM and waits for the end, in good order.
func (r *running) terminate(t *testing.T) result {
	t.Helper()
	require.NoError(t, r.Process.Signal(syscall.SIGTERM))
	res := r.wait(t)
	require.Zero(t, res.status, "%+v", res)
	return res
}

func unpublished(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow(`SELECT count(*) FROM endstate_outbox e LEFT JOIN endstate_outbox_cursors c ON c.partition = e.partition
		WHERE c.partition IS NULL OR e.seq > c.position OR EXISTS (SELECT 1 FROM endstate_outbox_parked p WHERE p.seq = e.seq)`).Scan(&n))
	return n
}

func TestRelayToRedis(t *testing.T) {
	each(t, func(t *testing.T, url string, db *sql.DB) {
		server := dbtest.StartRedis(t, "--requirepass", "hunter2")
		ids := putEvents(t, url, db, event("7", "paid"), event("8", "shipped"))
		r := start(t, url, "relay", "--to", "redis://:hunter2@"+server.Addr(), "--stream", "shop", "--stream-by", "type", "--max-len", "1000", "--figures", "20ms", "--name", "test")
		rdb := dbtest.RedisOn(t, "redis://:hunter2@"+server.Addr())
		require.Eventually(t, func() bool { return unpublished(t, db) == 0 }, time.Minute, 10*time.Millisecond)
		for i, stream := range []string{"shop:paid", "shop:shipped"} {
			messages := rdb.XRange(t.Context(), stream, "-", "+").Val()
			require.Len(t, messages, 1)
			e, err := redisstream.Decode(messages[0].Values)
			require.NoError(t, err)
			require.Equal(t, ids[i], e.ID)
		}
		require.Equal(t, 1, relays(t, db))
		require.Eventually(t, func() bool {
			return strings.Contains(r.stderr.String(), `msg="relay: figures" subscription=default pending=0 retrying=0 dead=0`)
		}, time.Minute, 10*time.Millisecond)
		stats := cli(t, url, "outbox", "stats")
		require.Regexp(t, `(?m)^  relay  started +partitions  published  rate\n  test   [0-9TZ:-]{20}           8  `, stats.stdout)

		res := r.terminate(t)
		require.Regexp(t, `^2 events published in \d+s, 0 failures, 0 dead letters; 8 partitions given back\n$`, res.stdout)
		for _, part := range []string{`level=INFO msg="relay: publishing" to=redis://` + server.Addr(), "outbox=endstate_outbox", `msg="outbox relay: started"`, "its partitions are free"} {
			require.Contains(t, res.stderr, part)
		}
		require.NotContains(t, res.stderr, "hunter2")
		require.NotContains(t, res.stderr, "credits", "a payload")
		require.Zero(t, relays(t, db), "its lease is given back")
	})
}

func relays(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow("SELECT count(*) FROM endstate_outbox_relays").Scan(&n))
	return n
}

// A batch that is under way when the signal comes is finished, and its events are marked.
func TestRelayFinishesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		secret, other := webhook.GenerateSecret(), webhook.GenerateSecret()
		parsed, err := webhook.ParseSecret(secret)
		require.NoError(t, err)
		var got outboxtest.Recorder
		arrived, answer := make(chan struct{}), make(chan struct{})
		hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			e, err := webhook.Receiver{Secrets: []webhook.Secret{parsed}}.Event(req)
			if err != nil {
				w.WriteHeader(webhook.Status(err))
				return
			}
			close(arrived)
			<-answer
			got.Publish(req.Context(), []outbox.Event{e})
		}))
		defer hook.Close()
		file := filepath.Join(t.TempDir(), "secrets")
		require.NoError(t, os.WriteFile(file, []byte("# the next one first\n"+other+"\n\n"+secret+"\n"), 0o600))
		ids := putEvents(t, url, db, event("7", "paid"))
		r := start(t, url, "relay", "--json", "--to", hook.URL+"/hook?token=hunter2", "--secret-file", file, "--retention", "none")
		<-arrived
		require.NoError(t, r.Process.Signal(syscall.SIGTERM))
		close(answer)
		res := r.wait(t)
		require.Zero(t, res.status, "%+v", res)
		require.Equal(t, 1.0, decode[map[string]any](t, res)["published"])
		require.Equal(t, ids[0], got.Events()[0].ID)
		var left int
		require.NoError(t, db.QueryRow("SELECT count(*) FROM endstate_outbox").Scan(&left))
		require.Zero(t, left, "it is deleted, as --retention says")
		require.Regexp(t, `(?m)^\{"time":.*"msg":"relay: publishing","to":"`+regexp.QuoteMeta(hook.URL)+`"`, res.stderr)
		for _, hidden := range []string{"hunter2", strings.TrimPrefix(secret, "whsec_"), strings.TrimPrefix(other, "whsec_")} {
			require.NotContains(t, res.stderr, hidden)
		}
	})
}

// The destination is away at first; its URL and the secrets come from the environment.
func TestRelayWaitsForItsDestination(t *testing.T) {
	for _, to := range []string{"nats", "http"} {
		t.Run(to, func(t *testing.T) {
			db := dbtest.SQLite(t)
			url := sqlitePath(t, db)
			ids := putEvents(t, url, db, event("7", "paid"))
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			addr := listener.Addr().(*net.TCPAddr)
			require.NoError(t, listener.Close())

			secret := webhook.GenerateSecret()
			r := startRelay(t, url, []string{toEnv + "=" + to + "://user:hunter2@" + addr.String(), secretsEnv + "=" + secret}, "--max-backoff", "1s")
			require.Eventually(t, func() bool {
				var waits bool
				require.NoError(t, db.QueryRow("SELECT count(*) > 0 FROM endstate_outbox_cursors WHERE blocked_since IS NOT NULL").Scan(&waits))
				return waits
			}, time.Minute, 10*time.Millisecond)

			var received func() []outbox.Event
			if to == "nats" {
				received = startNATS(t, addr.Port)
			} else {
				received = startHook(t, addr.String(), secret)
			}
			require.Eventually(t, func() bool { return unpublished(t, db) == 0 }, time.Minute, 10*time.Millisecond)
			res := r.terminate(t)
			require.NotContains(t, res.stderr, "hunter2")
			require.NotContains(t, res.stderr, strings.TrimPrefix(secret, "whsec_"))
			require.Contains(t, res.stdout, "1 event published")
			require.Equal(t, ids[0], received()[0].ID)
		})
	}
}

// sqlitePath is the file of a database.
func sqlitePath(t *testing.T, db *sql.DB) (path string) {
	t.Helper()
	require.NoError(t, db.QueryRow("SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&path))
	return "sqlite:" + path
}

func startHook(t *testing.T, addr, secret string) func() []outbox.Event {
	t.Helper()
	parsed, err := webhook.ParseSecret(secret)
	require.NoError(t, err)
	var got outboxtest.Recorder
	listener, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	hook := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		e, err := webhook.Receiver{Secrets: []webhook.Secret{parsed}}.Event(req)
		if err != nil {
			w.WriteHeader(webhook.Status(err))
			return
		}
		got.Publish(req.Context(), []outbox.Event{e})
	}))
	require.NoError(t, hook.Listener.Close())
	hook.Listener = listener
	hook.Start()
	t.Cleanup(hook.Close)
	return got.Events
}

func startNATS(t *testing.T, port int) func() []outbox.Event {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: t.TempDir(), Username: "user", Password: "hunter2", NoLog: true, NoSigs: true,
	})
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(30*time.Second))
	closed := make(chan struct{})
	conn, err := nats.Connect(fmt.Sprintf("nats://user:hunter2@127.0.0.1:%d", port), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(); <-closed })
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "EVENTS", Subjects: []string{"events.>"}})
	require.NoError(t, err)
	return func() []outbox.Event {
		m, err := stream.GetMsg(context.Background(), 1)
		require.NoError(t, err)
		e, err := natsjs.Decode(m.Header, m.Data)
		require.NoError(t, err)
		return []outbox.Event{e}
	}
}

func TestRelayCannotStart(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db string, _ *sql.DB) {
		missing := filepath.Join(t.TempDir(), "missing")
		empty := filepath.Join(t.TempDir(), "empty")
		require.NoError(t, os.WriteFile(empty, []byte("# none\n"), 0o600))
		bad := filepath.Join(t.TempDir(), "bad")
		require.NoError(t, os.WriteFile(bad, []byte("hunter2\n"), 0o600))
		for said, args := range map[string][]string{
			"no destination: give --to or set ENDSTATE_TO":                    {},
			"--to begins with none of redis://":                               {"--to", "amqp://user:hunter2@localhost"},
			"--to can't be taken for a URL: there is a blank in it":           {"--to", "redis://user:hunter2@local host"},
			"--to can't be taken for a URL: there is an @ behind":             {"--to", "redis://user:1/hunter2@localhost"},
			"--to can't be taken for a URL: there is a blank":                 {"--to", "nats://user:hunter2 x@localhost"},
			"--to can't be parsed as nats://":                                 {"--to", "nats://localhost:1,nats://user:hunter2%@localhost:1"},
			"--to can't be parsed as redis://HOST":                            {"--to", "redis://user:hunter2%zz@localhost"},
			"--to can't be parsed as redis://HOST:PORT?addr":                  {"--to", "redis://user:hunter2@localhost?addr=a&hunter2=x"},
			"--stream-by is \"id\"; there are type and aggregate-type":        {"--to", "redis://localhost", "--stream-by", "id"},
			"Config.MaxLen is -1":                                             {"--to", "redis://localhost", "--max-len", "-1"},
			"the URL is not an absolute http or https URL":                    {"--to", "https://"},
			"--secret-file: open " + missing:                                  {"--to", "https://localhost", "--secret-file", missing},
			"--secret-file holds no secret":                                   {"--to", "https://localhost", "--secret-file", empty},
			"--secret-file: webhook: invalid configuration: a secret doesn't": {"--to", "https://localhost", "--secret-file", bad},
			`--retention is "a week"`:                                         {"--to", "redis://localhost", "--retention", "a week"},
			`--log-level is "loud"`:                                           {"--to", "redis://localhost", "--log-level", "loud"},
			"apply the migrations":                                            {"--to", "redis://localhost"},
			`Config.Prefix is "a b"`:                                          {"--to", "nats://user:hunter2@localhost:1", "--subject-prefix", "a b"},
		} {
			r := cli(t, db, append([]string{"relay"}, args...)...)
			require.Equal(t, 2, r.status, "%v: %+v", args, r)
			require.Empty(t, r.stdout)
			require.Contains(t, r.stderr, said)
			require.NotContains(t, r.stderr, "hunter2")
		}
	})
	t.Run("help", func(t *testing.T) {
		r := cli(t, "", "relay", "--help", "--to", "redis://user:hunter2@localhost")
		require.Zero(t, r.status)
		require.NotContains(t, r.stdout, "hunter2")
	})
}
