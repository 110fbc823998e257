package relay_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// way is where a test's events stand in a subscription, by hand: no relay runs.
type way struct {
	*database
	admin *relay.Admin
	ids   map[relay.State]uuid.UUID
}

func (db *database) scan(t testing.TB, query string, dest ...any) {
	t.Helper()
	db.In(t, func(ctx context.Context, tx endstate.Tx) { require.NoError(t, tx.QueryRow(ctx, query).Scan(dest...)) })
}

// subscribe makes a subscription whose cursors stand at a position in every partition.
func (db *database) subscribe(t *testing.T, name, types string, position int64) {
	t.Helper()
	db.Exec(t, fmt.Sprintf("INSERT INTO endstate_outbox_subscriptions (name, types, destination, start) VALUES ('%s', '%s', 'https://%[1]s.example', 'begin')", name, types))
	for p := range outbox.Partitions {
		if db.SQLite {
			db.Exec(t, fmt.Sprintf("INSERT INTO endstate_outbox_cursors (subscription, partition, token, position) VALUES ('%s', %d, '%s', %d)", name, p, uuid.NewString(), position))
			continue
		}
		db.Exec(t, fmt.Sprintf(`INSERT INTO endstate_outbox_cursors (subscription, partition, token, position, prior_position, snapshot, cluster)
VALUES ('%s', %d, '%s', %d, %[4]d, pg_current_snapshot(), 0)`, name, p, uuid.NewString(), position))
	}
}

// insert puts an event by hand and returns its id and number.
func (db *database) insert(t *testing.T, typ, aggregate string) (uuid.UUID, int64) {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	db.Exec(t, fmt.Sprintf(`INSERT INTO endstate_outbox (partition, id, aggregate_type, aggregate_id, type, payload, headers)
VALUES (%d, '%s', 'order', '%s', '%s', CAST('{}' AS %s), '{"h": "v"}')`, outbox.Partition("order", aggregate), id, aggregate, typ, map[bool]string{true: "blob", false: "bytea"}[db.SQLite]))
	var seq int64
	db.scan(t, fmt.Sprintf("SELECT seq FROM endstate_outbox WHERE id = '%s'", id), &seq)
	return id, seq
}

// park sets an event aside.
func (db *database) park(t *testing.T, subscription string, id uuid.UUID, set string) {
	t.Helper()
	db.Exec(t, fmt.Sprintf(`INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id)
SELECT '%s', partition, seq, id, aggregate_type, aggregate_id FROM endstate_outbox WHERE id = '%s'`, subscription, id))
	if set != "" {
		db.Exec(t, fmt.Sprintf("UPDATE endstate_outbox_parked SET %s WHERE subscription = '%s' AND event_id = '%s'", set, subscription, id))
	}
}

// states puts an event of each state of the subscription "default", and one for another subscription.
func states(t *testing.T, db *database) way {
	t.Helper()
	w := way{db, db.admin(t), map[relay.State]uuid.UUID{}}
	var position int64
	for _, state := range []relay.State{relay.Dead, relay.Retrying, relay.Behind, relay.Published} {
		w.ids[state], position = db.insert(t, string(state), string(state))
	}
	db.subscribe(t, "default", "[]", position)
	w.ids[relay.Pending], _ = db.insert(t, "pending", "pending")
	db.park(t, "default", w.ids[relay.Dead], "dead_at = parked_at, attempts = 7, crashes = 2, last_error = 'refused'")
	db.park(t, "default", w.ids[relay.Retrying], "next_attempt_at = '9999-01-01T00:00:00Z', attempts = 2, last_error = 'away'")
	db.park(t, "default", w.ids[relay.Behind], "")
	return w
}

func TestAdminListsByState(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		w := states(t, db)
		ctx := t.Context()
		page, err := w.admin.List(ctx, relay.Filter{})
		require.NoError(t, err)
		require.Zero(t, page.Next)
		all := page.Records
		require.Len(t, all, 5)
		require.True(t, slices.IsSortedFunc(all, func(a, b relay.Record) int { return int(a.Seq - b.Seq) }))
		for _, r := range all {
			require.Equal(t, w.ids[r.State], r.ID, r.State)
			require.Equal(t, string(r.State), r.Type)
			require.Equal(t, map[string]string{"h": "v"}, r.Headers)
			require.Empty(t, r.Payload)
			require.WithinDuration(t, time.Now(), r.CreatedAt, time.Minute)
			require.Equal(t, outbox.Partition(r.AggregateType, r.AggregateID), r.Partition)
			require.Equal(t, r.State == relay.Dead, !r.DeadAt.IsZero())
			require.Equal(t, r.State == relay.Retrying, !r.NextAttemptAt.IsZero())
			require.Equal(t, "default", r.Subscription)
			for _, f := range []relay.Filter{
				{State: r.State},
				{State: r.State, AggregateType: r.AggregateType, AggregateID: r.AggregateID, Type: r.Type},
				{AggregateType: r.AggregateType, AggregateID: r.AggregateID, Newest: true},
			} {
				one, err := w.admin.List(ctx, f)
				require.NoError(t, err)
				require.Equal(t, relay.Page{Records: []relay.Record{r}}, one, f)
			}
		}
		newest, err := w.admin.List(ctx, relay.Filter{Newest: true})
		require.NoError(t, err)
		slices.Reverse(newest.Records)
		require.Equal(t, all, newest.Records)
		page, err = w.admin.List(ctx, relay.Filter{After: all[1].Seq, Limit: 2})
		require.NoError(t, err)
		require.Equal(t, relay.Page{Records: all[2:4], Next: all[3].Seq}, page)
		for _, f := range []relay.Filter{{State: relay.Pending, AggregateID: "elsewhere"}, {OlderThan: time.Hour}, {Error: "REFUSED"}} {
			page, err = w.admin.List(ctx, f)
			require.NoError(t, err)
			require.Empty(t, page.Records, f)
		}
		page, err = w.admin.List(ctx, relay.Filter{Error: "fuse"})
		require.NoError(t, err)
		require.Len(t, page.Records, 1)

		db.subscribe(t, "partner", `["pend*", "dead"]`, 0)
		page, err = w.admin.List(ctx, relay.Filter{Subscription: "partner"})
		require.NoError(t, err)
		require.Len(t, page.Records, 2)
		require.Equal(t, relay.Pending, page.Records[0].State, "another subscription's dead letter")

		_, err = w.admin.List(ctx, relay.Filter{State: "lost"})
		require.ErrorContains(t, err, `Filter.State is "lost"`)
		_, err = w.admin.List(ctx, relay.Filter{Limit: -1})
		require.ErrorContains(t, err, "Filter.Limit is -1")
		_, err = w.admin.List(ctx, relay.Filter{Subscription: "nobody's"})
		require.ErrorIs(t, err, relay.ErrNoSubscription)
		require.ErrorContains(t, err, "default, partner")
	})
}

// A filter that matches a few events among very many comes to them page by page, each of which looks at a bounded number.
func TestAListGoesOnBehindWhatItLookedAt(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, writer, func(t *testing.T, db *database) {
		db.subscribe(t, "default", "[]", 0)
		_, first := db.insert(t, "rare", "first")
		many := "INSERT INTO endstate_outbox (partition, id, aggregate_type, aggregate_id, type, payload) "
		if db.SQLite {
			db.Exec(t, many+`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 11000)
SELECT i % 2, 'x' || i, 'order', '1', 'usual', x'7b7d' FROM n`)
		} else {
			db.Exec(t, many+"SELECT i % 2, gen_random_uuid(), 'order', '1', 'usual', '{}' FROM generate_series(1, 11000) i")
		}
		_, last := db.insert(t, "rare", "last")
		middle := first + 2600 // among many of its partition
		db.Exec(t, fmt.Sprintf("UPDATE endstate_outbox SET type = 'rare' WHERE seq = %d", middle))
		find := func(f relay.Filter) {
			for newest, want := range map[bool][]int64{false: {first, middle, last}, true: {last, middle, first}} {
				var found []int64
				pages := 0
				for f.After, f.Newest = 0, newest; ; pages++ {
					page, err := db.admin(t).List(t.Context(), f)
					require.NoError(t, err)
					for _, r := range page.Records {
						found = append(found, r.Seq)
					}
					if f.After = page.Next; page.Next == 0 {
						break
					}
				}
				require.Equal(t, want, found)
				require.Positive(t, pages)
			}
		}
		find(relay.Filter{Type: "rare"})
		db.Exec(t, `INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id, last_error, dead_at)
SELECT 'default', partition, seq, id, aggregate_type, aggregate_id, type, created_at FROM endstate_outbox`)
		find(relay.Filter{Type: "rare", State: relay.Dead})
		find(relay.Filter{Error: "rare"})
	})
}

func TestAdminShowsAnEventsWayThroughEachSubscription(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		w := states(t, db)
		ctx := t.Context()
		db.subscribe(t, "elsewhere", `["other"]`, 0)
		db.subscribe(t, "partner", `["dead"]`, 0)
		shown, err := w.admin.Show(ctx, w.ids[relay.Dead])
		require.NoError(t, err)
		require.Equal(t, "{}", string(shown.Payload))
		require.Empty(t, shown.History)
		require.Len(t, shown.Deliveries, 2, "one isn't for it")
		dead, pending := shown.Deliveries[0], shown.Deliveries[1]
		require.Equal(t, relay.Dead, dead.State)
		require.Equal(t, "default", dead.Subscription)
		require.Equal(t, 7, dead.Attempts)
		require.Equal(t, 2, dead.Crashes)
		require.Equal(t, "refused", dead.LastError)
		require.Equal(t, relay.Delivery{Subscription: "partner", State: relay.Pending}, pending)
		_, err = w.admin.Show(ctx, uuid.New())
		require.ErrorIs(t, err, relay.ErrNotFound)

		published := w.ids[relay.Published]
		shown, err = w.admin.Show(ctx, published)
		require.NoError(t, err)
		require.Equal(t, relay.Published, shown.Deliveries[0].State)
		require.Zero(t, shown.Deliveries[0].PublishedBy, "nothing tells")
		db.Exec(t, "UPDATE endstate_outbox SET created_at = '2024-01-01T00:00:01.000Z' WHERE id = '"+published.String()+"'")
		for seq, at := range map[int64]string{shown.Seq - 1: "2024-01-01T00:00:00.000Z", shown.Seq: "2024-01-01T00:00:05.000Z", shown.Seq + 1: "2024-01-01T00:00:10.000Z"} {
			db.Exec(t, fmt.Sprintf("INSERT INTO endstate_outbox_samples (subscription, partition, at, position) VALUES ('default', %d, '%s', %d)", shown.Partition, at, seq))
		}
		shown, err = w.admin.Show(ctx, published)
		require.NoError(t, err)
		require.Equal(t, time.Date(2024, 1, 1, 0, 0, 5, 0, time.UTC), shown.Deliveries[0].PublishedBy)
	})
}

func TestDeadLettersAreRetriedOrDiscardedOnTheRecord(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		w := states(t, db)
		ctx := t.Context()
		every := []uuid.UUID{w.ids[relay.Pending], w.ids[relay.Dead], w.ids[relay.Published], w.ids[relay.Retrying], w.ids[relay.Behind], uuid.New()}
		for _, bad := range []relay.By{{}, {Subscription: "default", Who: "ada"}, {Subscription: "default", Why: "why"}, {Who: "ada", Why: "why"},
			{Subscription: "default", Who: "w\x00o", Why: "why"}, {Subscription: "default", Who: "ada", Why: strings.Repeat("x", 1001)}} {
			_, err := w.admin.Retry(ctx, bad, every...)
			require.ErrorIs(t, err, outbox.ErrConfig)
		}
		by := relay.By{Subscription: "default", Who: "ada", Why: "the broker's limit is higher now"}
		_, err := w.admin.Retry(ctx, relay.By{Subscription: "partner", Who: "ada", Why: "why"}, every...)
		require.ErrorIs(t, err, relay.ErrNoSubscription)
		before, err := w.admin.List(ctx, relay.Filter{})
		require.NoError(t, err)

		done, err := w.admin.Retry(ctx, by, every...)
		require.NoError(t, err)
		require.Equal(t, []uuid.UUID{w.ids[relay.Dead]}, done, "only what is dead")
		done, err = w.admin.Retry(ctx, by, every...)
		require.NoError(t, err)
		require.Empty(t, done)
		shown, err := w.admin.Show(ctx, w.ids[relay.Dead])
		require.NoError(t, err)
		revived := shown.Deliveries[0]
		require.Equal(t, relay.Retrying, revived.State)
		require.Zero(t, revived.Attempts)
		require.Zero(t, revived.Crashes)
		require.Len(t, shown.History, 1)
		require.WithinDuration(t, time.Now(), shown.History[0].At, time.Minute)
		shown.History[0].At = time.Time{}
		require.Equal(t, relay.Intervention{Number: 1, By: by, Action: "retry", EventID: w.ids[relay.Dead], Attempts: 7, LastError: "refused"}, shown.History[0])
		after, err := w.admin.List(ctx, relay.Filter{After: shown.Seq})
		require.NoError(t, err)
		require.Equal(t, before.Records[1:], after.Records, "the others are as they were")

		db.Exec(t, "UPDATE endstate_outbox_parked SET dead_at = parked_at WHERE event_id = '"+w.ids[relay.Dead].String()+"'")
		done, err = w.admin.Discard(ctx, relay.By{Subscription: "default", Who: "bob", Why: "obsolete"}, every...)
		require.NoError(t, err)
		require.Equal(t, []uuid.UUID{w.ids[relay.Dead]}, done)
		history, next, err := w.admin.History(ctx, "", 0, 10)
		require.NoError(t, err)
		require.Zero(t, next)
		require.Len(t, history, 2)
		require.Equal(t, "discard", history[0].Action)
		none, next, err := w.admin.History(ctx, "partner", 0, 10)
		require.NoError(t, err)
		require.Zero(t, next)
		require.Empty(t, none)
	})
}

func TestStatsBySubscription(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		w := states(t, db)
		ctx := context.Background()
		db.subscribe(t, "partner", `["pend*"]`, 0)
		stats, err := w.admin.Stats(ctx)
		require.NoError(t, err)
		require.Len(t, stats, 2)
		s := stats[0]
		require.Equal(t, "default", s.Subscription)
		require.Equal(t, "https://default.example", s.Destination)
		require.Equal(t, []int64{1, 2, 1}, []int64{s.Pending, s.Retrying, s.Dead})
		require.False(t, s.AtLeast)
		require.Positive(t, s.OldestAge)
		require.Equal(t, outbox.Partitions, s.Unowned)
		require.Equal(t, int64(1), stats[1].Pending, "what it is for")
		require.Equal(t, []string{"pend*"}, stats[1].Types)

		id := uuid.NewString()
		db.Exec(t, "INSERT INTO endstate_outbox_relays (id, subscription, name, expires_at, published, rate) VALUES ('"+id+"', 'default', 'here', '9999-01-01T00:00:00Z', 7, 3.5)")
		db.Exec(t, "UPDATE endstate_outbox_cursors SET owner = '"+id+"' WHERE subscription = 'default' AND partition < 3")
		db.Exec(t, "UPDATE endstate_outbox_cursors SET blocked_since = '2024-01-01T00:00:00Z', blocked_by = '"+w.ids[relay.Pending].String()+"', blocked_why = '410' WHERE subscription = 'default' AND partition = 2")
		stats, err = w.admin.Stats(ctx)
		require.NoError(t, err)
		s = stats[0]
		require.Len(t, s.Relays, 1)
		require.Equal(t, id, s.Relays[0].ID.String())
		require.Equal(t, 3, s.Relays[0].Partitions)
		require.Equal(t, int64(7), s.Relays[0].Published)
		require.InDelta(t, 3.5, s.Rate, 0.01)
		require.Equal(t, outbox.Partitions-3, s.Unowned)
		require.Equal(t, []relay.Blocked{{Partition: 2, Since: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), EventID: w.ids[relay.Pending], Why: "410"}}, s.Blocked)
	})
}
