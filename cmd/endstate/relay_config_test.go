package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox/redisstream"
)

func writeConfig(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "relay.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// Two subscriptions, from a file, with secrets from the environment and a file, publish side by side; /readyz tells when they have
// their partitions, and SIGTERM gives these back.
func TestRelayOfSeveralSubscriptions(t *testing.T) {
	db := dbtest.SQLite(t)
	url := sqlitePath(t, db)
	ids := putEvents(t, url, db, event("7", "paid"), event("8", "shipped"))
	cluster, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(3, "events"))
	require.NoError(t, err)
	defer cluster.Close()
	server := dbtest.StartRedis(t, "--requirepass", "hunter2")
	to := filepath.Join(t.TempDir(), "to")
	require.NoError(t, os.WriteFile(to, []byte("redis://:hunter2@"+server.Addr()+"\n"), 0o600))
	t.Setenv("SHOP_DB", url)
	config := writeConfig(t, `# a comment
db: {env: SHOP_DB}
http: ":0"
subscriptions:
  - subscription: log
    to: kafka://`+strings.Join(cluster.ListenAddrs(), ",")+`
    poll-interval: 50ms
  - subscription: partner
    to:
      file: `+to+`
    stream: shop
    type: [paid, refunded.*]
    poll-interval: 50ms
`)
	r := start(t, "", "relay", "--config", config, "--json")
	require.Eventually(t, func() bool { return unpublished(t, db) == 0 }, time.Minute, 10*time.Millisecond)
	require.Eventually(t, func() bool { return strings.Contains(r.stderr.String(), "relay: serving") }, time.Minute, 10*time.Millisecond)
	base := "http://" + regexp.MustCompile(`"http":"(127.0.0.1:\d+)"`).FindStringSubmatch(r.stderr.String())[1]
	get := func(path string, into any) int {
		response, err := http.Get(base + path)
		require.NoError(t, err)
		defer response.Body.Close()
		if into != nil {
			require.NoError(t, json.NewDecoder(response.Body).Decode(into))
		}
		return response.StatusCode
	}
	require.Equal(t, http.StatusOK, get("/healthz", nil))
	var ready []readiness
	require.Eventually(t, func() bool { ready = nil; return get("/readyz", &ready) == http.StatusOK }, time.Minute, 10*time.Millisecond)
	require.Len(t, ready, 2)
	for _, one := range ready {
		require.True(t, one.Ready)
		require.Equal(t, 8, one.Partitions)
	}
	require.Len(t, kafkaRecords(t, 2, kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("events")), 2)
	messages := dbtest.RedisOn(t, "redis://:hunter2@"+server.Addr()).XRange(t.Context(), "shop", "-", "+").Val()
	require.Len(t, messages, 1, "of its types")
	e, err := redisstream.Decode(messages[0].Values)
	require.NoError(t, err)
	require.Equal(t, ids[0], e.ID)

	response, err := http.Get(base + "/metrics")
	require.NoError(t, err)
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Regexp(t, `(?m)^endstate_event_age_seconds_count\{endstate_event_type="paid",endstate_subscription="partner"\} 1$`, string(text))
	require.Regexp(t, `(?m)^endstate_relay_partitions\{endstate_subscription="partner"\} 8$`, string(text))

	// Without the table of leases nothing is ready, and the process is healthy all the same.
	_, err = db.Exec("ALTER TABLE endstate_outbox_relays RENAME TO away")
	require.NoError(t, err)
	require.Eventually(t, func() bool { ready = nil; return get("/readyz", &ready) == http.StatusServiceUnavailable }, time.Minute, 10*time.Millisecond)
	require.Contains(t, ready[0].Why, "the database: ")
	require.Equal(t, http.StatusOK, get("/healthz", nil))
	_, err = db.Exec("ALTER TABLE away RENAME TO endstate_outbox_relays")
	require.NoError(t, err)
	require.Eventually(t, func() bool { ready = nil; return get("/readyz", &ready) == http.StatusOK }, time.Minute, 10*time.Millisecond)

	require.NoError(t, r.Process.Signal(syscall.SIGTERM))
	res := r.wait(t)
	require.Zero(t, res.status, "%+v", res)
	require.NotContains(t, res.stderr, "hunter2")
	results := decode[[]map[string]any](t, res)
	require.Len(t, results, 2)
	require.Equal(t, []any{"log", 2.0, 8.0}, []any{results[0]["subscription"], results[0]["published"], results[0]["given_back"]})
	require.Equal(t, []any{"partner", 1.0, 8.0}, []any{results[1]["subscription"], results[1]["published"], results[1]["given_back"]})
	require.Zero(t, relays(t, db), "the leases are given back")
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for said, text := range map[string]string{
		"it is empty":                    "",
		"there are no subscriptions":     "http: 127.0.0.1:0\n",
		"line 1: the file is no mapping": "- a\n",
		"line 2: ":                       "a: b\n c: d: e\n",
		`line 2: there is no field "htpp"; there are subscriptions, db`:            "subscriptions: [{to: redis://localhost}]\nhtpp: x\n",
		"line 1: subscriptions is no list":                                         "subscriptions: {}\n",
		`line 3: a subscription has no field "steam"; there are `:                  "subscriptions:\n  - to: redis://localhost\n    steam: x\n",
		`line 3: "to" appears twice, first on line 2`:                              "subscriptions:\n  - to: redis://localhost\n    to: redis://localhost\n",
		"line 2: a subscription has no to":                                         "subscriptions:\n  - subscription: a\n",
		`line 3: subscription "default" appears twice, first on line 2`:            "subscriptions:\n  - to: redis://localhost\n  - to: redis://localhost\n",
		"line 3: batch-size is not what it takes":                                  "subscriptions:\n  - to: redis://localhost\n    batch-size: many\n",
		"line 3: max-backoff is not what it takes, which is a value such as 10m0s": "subscriptions:\n  - to: redis://localhost\n    max-backoff: hunter2\n",
		"line 3: batch-size has one value, and no list":                            "subscriptions:\n  - to: redis://localhost\n    batch-size: [1]\n",
		"line 3: batch-size has no value":                                          "subscriptions:\n  - to: redis://localhost\n    batch-size:\n",
		"line 2: to: the environment has no ENDSTATE_NOWHERE":                      "subscriptions:\n  - to: {env: ENDSTATE_NOWHERE}\n",
		"line 2: to: open /nowhere":                                                "subscriptions:\n  - to: {file: /nowhere}\n",
		"line 2: to is a value, {env: NAME} or {file: PATH}":                       "subscriptions:\n  - to: {vault: x}\n",
		`subscription a (line 2): --retention is "a week"`:                         "subscriptions:\n  - {subscription: a, to: 'redis://localhost', retention: a week}\n",
		"subscription default (line 3): --to begins with none of":                  "db: sqlite:/nowhere/x.db\nsubscriptions:\n  - to: amqp://user:hunter2@localhost\n",
		"subscription default (line 1): Config.MaxLen":                             "subscriptions: [{to: redis://localhost, max-len: -1}]\n",
	} {
		r := cli(t, "sqlite:/nowhere/x.db", "relay", "--config", writeConfig(t, text))
		require.Equal(t, 2, r.status, said)
		require.Contains(t, r.stderr, strings.TrimPrefix(said, "subscription default (line 1): "))
		require.NotContains(t, r.stderr, "hunter2")
	}
	r := cli(t, "sqlite:/nowhere/x.db", "relay", "--config", "/nowhere", "--to", "redis://localhost")
	require.Contains(t, r.stderr, "--to is one subscription's, and --config has several")
	r = cli(t, "sqlite:/nowhere/x.db", "relay", "--log-level", "loud", "--config", writeConfig(t, "log-level: info\nsubscriptions: [{to: 'redis://localhost'}]\n"))
	require.Contains(t, r.stderr, `--log-level is "loud"`, "a flag comes before the file")
	r = cli(t, "sqlite:/nowhere/x.db", "relay", "--config", "/nowhere/x.yaml")
	require.Contains(t, r.stderr, "--config: open /nowhere/x.yaml")
}

// A credential is kept out of all that is said, wherever the configuration has it from.
func TestCredentialsOfAConfigurationAreHidden(t *testing.T) {
	t.Setenv("ENDSTATE_TEST_TO", "redis://:hunter2@localhost")
	file := filepath.Join(t.TempDir(), "to")
	require.NoError(t, os.WriteFile(file, []byte("redis://:hunter2@localhost\n"), 0o600))
	for _, to := range []string{"{env: ENDSTATE_TEST_TO}", "{file: " + file + "}", "redis://:hunter2@localhost"} {
		a := &app{}
		relay, _, err := newRoot(a).Find([]string{"relay"})
		require.NoError(t, err)
		_, err = a.readConfig(relay, writeConfig(t, "subscriptions:\n  - to: "+to+"\n"))
		require.NoError(t, err)
		require.NotContains(t, a.secrets.redact("a driver says: AUTH hunter2 was refused"), "hunter2", to)
	}
}

// What --http says wrong ends the command before anything is published.
func TestRelayThatCannotServe(t *testing.T) {
	t.Parallel()
	db := dbtest.SQLite(t)
	url := sqlitePath(t, db)
	putEvents(t, url, db, event("7", "paid"))
	for said, address := range map[string]string{`--http is "9090"; write HOST:PORT`: "9090", "--http: listen tcp": "256.0.0.1:1"} {
		r := cli(t, url, "relay", "--to", "https://localhost", "--http", address)
		require.Equal(t, 2, r.status)
		require.Contains(t, r.stderr, said)
	}
}
