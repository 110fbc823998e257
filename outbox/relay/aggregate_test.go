package relay_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// bury puts n events of another aggregate into the partition of order 7.
func (db *database) bury(t *testing.T, n int) {
	t.Helper()
	into := "INSERT INTO endstate_outbox (partition, id, aggregate_type, aggregate_id, type, payload) "
	partition := outbox.Partition("order", "7")
	if db.SQLite {
		db.Exec(t, into+fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
SELECT %d, lower(hex(randomblob(16))), 'order', 'other', 'usual', x'7b7d' FROM n`, n, partition))
	} else {
		db.Exec(t, into+fmt.Sprintf("SELECT %d, gen_random_uuid(), 'order', 'other', 'usual', '{}' FROM generate_series(1, %d) i", partition, n))
	}
}

// What happened to an aggregate: its events, each with its way through every subscription that is for it, and with what people did.
func TestAnAggregatesEvents(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		admin := db.admin(t)
		paid, seq := db.insert(t, "paid", "7")
		_, _ = db.insert(t, "paid", "8")
		db.subscribe(t, "default", "[]", seq)
		db.subscribe(t, "partner", `["shipped"]`, 0)
		shipped, _ := db.insert(t, "shipped", "7")
		db.park(t, "default", paid, "dead_at = parked_at, attempts = 3, last_error = 'refused'")
		_, err := admin.Retry(t.Context(), relay.By{Subscription: "default", Who: "ada", Why: "fixed"}, paid)
		require.NoError(t, err)

		events, before, since, err := admin.Aggregate(t.Context(), "order", "7", 0, time.Time{})
		require.NoError(t, err)
		require.Zero(t, before, "all was looked at")
		require.Zero(t, since)
		require.Len(t, events, 2)
		latest, first := events[0], events[1]
		require.Equal(t, []uuid.UUID{shipped, paid}, []uuid.UUID{latest.ID, first.ID})
		require.EqualValues(t, 2, latest.PayloadSize)
		require.Empty(t, latest.Payload)
		require.Equal(t, []relay.Delivery{{Subscription: "default", State: relay.Pending}, {Subscription: "partner", State: relay.Pending}}, latest.Deliveries)
		require.Len(t, first.Deliveries, 1, "one subscription isn't for it")
		require.Equal(t, relay.Retrying, first.Deliveries[0].State)
		require.Len(t, first.History, 1)
		require.Equal(t, "fixed", first.History[0].Why)

		_, _, _, err = admin.Aggregate(t.Context(), "order", "", 0, time.Time{})
		require.ErrorIs(t, err, outbox.ErrConfig)
		events, _, _, err = admin.Aggregate(t.Context(), "order", "none", 0, time.Time{})
		require.NoError(t, err)
		require.Empty(t, events)
	})
}

// An event that many others came after is found by going further back, by the time at which it was written, or by an index.
func TestAnAggregatesEventsAmongMany(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		db.subscribe(t, "default", "[]", 0)
		admin := db.admin(t)
		db.bury(t, 6000)
		id, _ := db.insert(t, "paid", "7")
		db.bury(t, 12_000)
		shown, err := admin.Show(t.Context(), id)
		require.NoError(t, err)

		var before int64
		var found []uuid.UUID
		looks := 0
		for {
			events, further, since, err := admin.Aggregate(t.Context(), "order", "7", before, time.Time{})
			require.NoError(t, err)
			looks++
			for _, e := range events {
				found = append(found, e.ID)
			}
			if before = further; before == 0 {
				require.Zero(t, since)
				break
			}
			require.NotZero(t, since)
		}
		require.Equal(t, []uuid.UUID{id}, found)
		require.Equal(t, 4, looks)

		// The others were written together, at about the same time: the clocks of two of them may say the same.
		update := "UPDATE endstate_outbox SET created_at = '%s' WHERE seq %s"
		db.Exec(t, fmt.Sprintf(update, "2024-01-01T00:00:00.000Z", fmt.Sprint("< ", shown.Seq)))
		db.Exec(t, fmt.Sprintf(update, "2024-01-02T00:00:00.000Z", fmt.Sprint("= ", shown.Seq)))
		db.Exec(t, fmt.Sprintf(update, "2024-01-03T00:00:00.000Z", fmt.Sprint("> ", shown.Seq)))
		events, further, _, err := admin.Aggregate(t.Context(), "order", "7", 0, time.Date(2024, 1, 2, 0, 0, 0, 0, time.UTC))
		require.NoError(t, err)
		require.Len(t, events, 1)
		require.NotZero(t, further, "there is more further back")

		db.Exec(t, "CREATE INDEX by_aggregate ON endstate_outbox (aggregate_type, aggregate_id, seq)")
		events, further, _, err = admin.Aggregate(t.Context(), "order", "7", 0, time.Time{})
		require.NoError(t, err)
		require.Len(t, events, 1)
		require.Zero(t, further, "by the index")
		events, further, _, err = admin.Aggregate(t.Context(), "order", "other", 0, time.Time{})
		require.NoError(t, err)
		require.Len(t, events, 100)
		require.True(t, slices.IsSortedFunc(events, func(a, b relay.Shown) int { return int(b.Seq - a.Seq) }))
		require.Equal(t, events[99].Seq, further)
	})
}

// A text of ten megabytes, and a row that can't be decoded, don't keep people from seeing what else there is.
func TestListsAreSafeWhateverIsInTheTable(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		db.subscribe(t, "default", "[]", 0)
		id, _ := db.insert(t, "paid", "7")
		const huge = 10 << 20
		long := fmt.Sprintf("repeat('é', %d)", huge)
		if db.SQLite {
			long = fmt.Sprintf("replace(hex(zeroblob(%d)), '00', 'é')", huge)
		} else {
			db.Exec(t, "ALTER TABLE endstate_outbox DROP CONSTRAINT endstate_outbox_headers_check, DROP CONSTRAINT endstate_outbox_occurred_at_check")
		}
		db.park(t, "default", id, "dead_at = parked_at, last_error = "+long)
		db.Exec(t, "UPDATE endstate_outbox SET type = "+long+", occurred_at = 'infinity', headers = '{\"n\": 1}', payload = CAST("+map[bool]string{true: long + " AS blob)", false: "repeat('x', 20971520) AS bytea)"}[db.SQLite])
		said := fmt.Sprintf("... (%d characters)", huge)
		page, err := db.admin(t).List(t.Context(), relay.Filter{Brief: true})
		require.NoError(t, err)
		require.Len(t, page.Records, 1)
		for _, text := range []string{page.Records[0].Type, page.Records[0].LastError} {
			require.Equal(t, strings.Repeat("é", 2000)+said, text)
		}
		_, err = db.admin(t).List(t.Context(), relay.Filter{})
		require.NoError(t, err)
		shown, err := db.admin(t).ShowCut(t.Context(), id, 100)
		require.NoError(t, err)
		require.Len(t, shown.Payload, 100)
		require.EqualValues(t, 2*huge, shown.PayloadSize)
		require.Contains(t, shown.Deliveries[0].LastError, said)
		headers := fmt.Sprintf("'{\"n\": \"' || %s || '\"}'", long)
		if !db.SQLite {
			headers = "CAST(" + headers + " AS jsonb)"
		}
		db.Exec(t, "UPDATE endstate_outbox SET headers = "+headers)
		shown, err = db.admin(t).ShowCut(t.Context(), id, 0)
		require.NoError(t, err)
		require.Empty(t, shown.Payload)
		require.Equal(t, map[string]string{"...": fmt.Sprint(huge+9, " characters, not shown")}, shown.Headers)
	})
}
