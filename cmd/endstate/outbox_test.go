package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

var quiet = slog.New(slog.DiscardHandler)

// putEvents puts events into the default outbox, which is made if need be.
func putEvents(t testing.TB, url string, db *sql.DB, events ...outbox.Event) []uuid.UUID {
	t.Helper()
	require.Zero(t, cli(t, url, "migrate").status)
	wrap := endstate.PostgresTx
	if strings.HasPrefix(url, "sqlite:") {
		wrap = endstate.SQLiteTx
	}
	tx, err := db.Begin()
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	results, err := outbox.Put(t.Context(), wrap(tx), events...)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	ids := make([]uuid.UUID, len(results))
	for i, r := range results {
		ids[i] = r.ID
	}
	return ids
}

func event(aggregate, kind string) outbox.Event {
	return outbox.Event{AggregateType: "order", AggregateID: aggregate, Type: kind, Payload: []byte(`{"credits":3}`)}
}

// relayUntil runs a relay in this process until every event was published or is dead.
func relayUntil(t testing.TB, db *sql.DB, p outbox.Publisher) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rel, err := relay.NewSQL(db, p, &relay.Config{Logger: quiet, PollInterval: 10 * time.Millisecond})
	require.NoError(t, err)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = rel.Run(ctx) })
	require.Eventually(t, func() bool {
		var waiting int
		err := db.QueryRow(`SELECT count(*) FROM endstate_outbox e LEFT JOIN endstate_outbox_cursors c ON c.partition = e.partition
			LEFT JOIN endstate_outbox_parked p ON p.partition = e.partition AND p.seq = e.seq
			WHERE p.seq IS NOT NULL AND p.dead_at IS NULL OR p.seq IS NULL AND (c.partition IS NULL OR e.seq > c.position)`).Scan(&waiting)
		return err == nil && waiting == 0
	}, time.Minute, 10*time.Millisecond)
}

// refuses is a publisher that gives up on events of type "bad".
var refuses = outbox.PublisherFunc(func(_ context.Context, e outbox.Event) error {
	if e.Type == "bad" {
		return outbox.Permanent(errors.New("no \x1b[31mthanks"))
	}
	return nil
})

func TestOutbox(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		require.Equal(t, 2, cli(t, url, "outbox", "stats").status, "there is no outbox")
		ids := putEvents(t, url, db, event("7", "paid"), event("8", "bad"), event("9", "bad"))
		bad, other := ids[1].String(), ids[2].String()

		r := cli(t, url, "outbox", "stats")
		require.Zero(t, r.status, r.stderr)
		require.Equal(t, "No subscriptions: no relay ever ran on this outbox.\n", r.stdout)
		r = cli(t, url, "outbox", "list")
		require.Equal(t, 2, r.status)
		require.Contains(t, r.stderr, `no such subscription: "default"; there are none`)

		relayUntil(t, db, refuses)
		r = cli(t, url, "outbox", "stats", "--json")
		require.Equal(t, 1, r.status, "there are dead letters")
		stats := decode[struct{ Subscriptions []map[string]any }](t, r).Subscriptions[0]
		require.Equal(t, []any{"default", 0.0, 2.0, 8.0}, []any{stats["subscription"], stats["pending"], stats["dead"], stats["unowned_partitions"]})

		r = cli(t, url, "outbox", "stats")
		require.Contains(t, r.stdout, "default: all types, to an unnamed destination\n")
		require.Contains(t, r.stdout, "  dead                           2  given up: see outbox list --state dead\n")
		require.Contains(t, r.stdout, "  No relay runs.")

		r = cli(t, url, "outbox", "list")
		require.Zero(t, r.status, r.stderr)
		require.Regexp(t, `^seq  id +type  aggregate  state      created +attempts  last error
  1  [0-9a-f-]{36}  paid  order 7    published  [0-9TZ:-]{20}         0
  2  [0-9a-f-]{36}  bad   order 8    dead       [0-9TZ:-]{20}         1  outbox: permanent failure: no \\x1b\[31mthanks
  3  [0-9a-f-]{36}  bad   order 9    dead       [0-9TZ:-]{20}         1  outbox: permanent failure: no \\x1b\[31mthanks
$`, r.stdout)
		r = cli(t, url, "outbox", "list", "--state", "dead", "--aggregate-id", "9", "--json")
		listed := decode[struct{ Events []map[string]any }](t, r).Events
		require.Len(t, listed, 1)
		require.Equal(t, other, listed[0]["id"])
		require.Equal(t, "outbox: permanent failure: no \x1b[31mthanks", listed[0]["last_error"])
		require.Contains(t, cli(t, url, "outbox", "list", "--limit", "1").stdout, "There may be more: --after 1\n")
		require.Equal(t, "No events.\n", cli(t, url, "outbox", "list", "--state", "retrying").stdout)

		// A retry is recorded, and what isn't dead is left.
		r = cli(t, url, "outbox", "retry", bad, ids[0].String(), "--by", "ann", "--reason", "fixed\x1b")
		require.Equal(t, 1, r.status, r.stderr)
		require.Equal(t, "1 dead letter pending again\nnot dead, or not there: "+ids[0].String()+"\n", r.stdout)
		r = cli(t, url, "outbox", "show", bad)
		require.Zero(t, r.status, r.stderr)
		for _, part := range []string{"aggregate       order 8", "\npayload, 13 bytes:\n{\"credits\":3}\n", "default       retry  ann  fixed\\x1b         1  outbox: permanent failure: no \\x1b[31mthanks"} {
			require.Contains(t, r.stdout, part)
		}
		shown := decode[map[string]any](t, cli(t, url, "outbox", "show", bad, "--json"))
		require.Equal(t, `{"credits":3}`, shown["payload"])
		require.Equal(t, "retrying", shown["deliveries"].([]any)[0].(map[string]any)["state"])
		require.Equal(t, "fixed\x1b", shown["history"].([]any)[0].(map[string]any)["reason"])

		r = cli(t, url, "outbox", "retry", "--all", "--type", "good", "--by", "ann", "--reason", "fixed")
		require.Equal(t, result{stdout: "0 dead letters pending again\n"}, r)
		r = cli(t, url, "outbox", "retry", "--all", "--by", "ann", "--reason", "fixed", "--json")
		require.Equal(t, map[string][]string{"done": {other}, "left": {}}, decode[map[string][]string](t, r))
		putEvents(t, url, db, event("7", "paid")) // where nothing is taken, nobody is to blame
		relayUntil(t, db, refuses)
		r = cli(t, url, "outbox", "discard", other, "--by", "bob", "--reason", "a test")
		require.Equal(t, result{stdout: "1 dead letter discarded\n"}, r)
		shown = decode[map[string]any](t, cli(t, url, "outbox", "show", other, "--json"))
		require.Equal(t, "published", shown["deliveries"].([]any)[0].(map[string]any)["state"], "the subscription is done with it")

		require.Equal(t, result{stdout: "0 events deleted\n"}, cli(t, url, "outbox", "purge", "--older-than", "1h"))
		require.Equal(t, result{stdout: "3 events deleted\n"}, cli(t, url, "outbox", "purge", "--older-than", "0s"))
		left := decode[struct{ Events []map[string]any }](t, cli(t, url, "outbox", "list", "--json")).Events
		require.Len(t, left, 1, "a dead letter stays")

		require.Equal(t, result{stdout: "1 event would be published again\n"}, cli(t, url, "outbox", "replay", "--from", "24h", "--dead", "--dry-run", "--by", "ann", "--reason", "what if"))
		require.Equal(t, result{stdout: "1 event to be published again\n"}, cli(t, url, "outbox", "replay", "--from", "24h", "--dead", "--by", "ann", "--reason", "lost"))
		require.Equal(t, "pending", decode[struct{ Events []map[string]any }](t, cli(t, url, "outbox", "list", "--json")).Events[0]["state"])
		require.Equal(t, result{stdout: "default dropped\n"}, cli(t, url, "outbox", "drop", "--subscription", "default", "--by", "ann", "--reason", "over"))
		history := decode[struct{ History []map[string]any }](t, cli(t, url, "outbox", "history", "--json")).History
		require.Equal(t, []any{"drop", "replay", "discard"}, []any{history[0]["action"], history[1]["action"], history[2]["action"]})
		require.Contains(t, cli(t, url, "outbox", "history", "--limit", "1").stdout, "drop  ann  over")
	})
}

func TestOutboxRetriesManyDeadLetters(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		events := make([]outbox.Event, 2500)
		for i := range events {
			events[i] = event(fmt.Sprint(i), "bad")
		}
		putEvents(t, url, db, events...)
		mustExec(t, db, "INSERT INTO endstate_outbox_subscriptions (name, types, destination, start) VALUES ('default', '[]', '', 'begin')",
			"INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id, attempts, dead_at) SELECT 'default', partition, seq, id, aggregate_type, aggregate_id, 1, created_at FROM endstate_outbox")
		r := cli(t, url, "outbox", "retry", "--all", "--by", "ann", "--reason", "fixed")
		require.Equal(t, result{stdout: "2500 dead letters pending again\n"}, r)
	})
}

func TestOutboxSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		putEvents(t, url, db)
		id := uuid.NewString()
		for said, args := range map[string][]string{
			"endstate outbox needs one of its commands": {"outbox"},
			`"7" is not the id of an event, a UUID`:     {"outbox", "show", "7"},
			"no such event":                             {"outbox", "show", id},
			"accepts 1 arg(s), received 0":              {"outbox", "show"},
			`Filter.State is "ded"`:                     {"outbox", "list", "--state", "ded"},
			"give either the ids of events, or --all":   {"outbox", "retry", "--by", "ann", "--reason", "fixed"},
			"--type, --aggregate-type, --aggregate-id":  {"outbox", "retry", id, "--type", "x", "--by", "ann", "--reason", "fixed"},
			`required flag(s) "reason" not set`:         {"outbox", "discard", id, "--by", "ann"},
			"--from is \"soon\"":                        {"outbox", "replay", "--from", "soon", "--by", "ann", "--reason", "fixed"},
			"give --subscription, the one to remove":    {"outbox", "drop", "--by", "ann", "--reason", "fixed"},
			"--limit is 0":                              {"outbox", "history", "--limit", "0"},
			"give --older-than, such as 720h":           {"outbox", "purge"},
			"olderThan is negative":                     {"outbox", "purge", "--older-than", "-1s"},
			"apply the migrations":                      {"outbox", "stats", "--outbox", "nowhere"},
		} {
			r := cli(t, url, args...)
			require.Equal(t, 2, r.status, "%v: %+v", args, r)
			require.Empty(t, r.stdout)
			require.Contains(t, r.stderr, said)
		}
	})
}
