package relay_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox/relay"
)

// Programs read an event's JSON: from the command, and from behind the console's pages.
func TestAnEventInJSON(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		w := states(t, db)
		db.Exec(t, `UPDATE endstate_outbox SET created_at = '2026-01-02T03:04:05Z', occurred_at = '2026-01-02T03:04:04Z', dedup_key = NULL, headers = '{}'`)
		db.Exec(t, `UPDATE endstate_outbox_parked SET parked_at = '2026-01-02T03:04:06Z', dead_at = '2026-01-02T03:04:07Z' WHERE dead_at IS NOT NULL`)
		id := w.ids[relay.Dead]
		row := fmt.Sprintf(`"seq": 1, "id": "%s", "type": "dead", "aggregate_type": "order", "aggregate_id": "dead", "partition": %%d, "created_at": "2026-01-02T03:04:05Z", "occurred_at": "2026-01-02T03:04:04Z", "schema_version": 1, "content_type": "application/json"`, id)
		const delivery = `"subscription": "default", "state": "dead", "attempts": 7, "crashes": 2, "last_error": "refused", "parked_at": "2026-01-02T03:04:06Z", "dead_at": "2026-01-02T03:04:07Z"`
		page, err := w.admin.List(t.Context(), relay.Filter{State: relay.Dead})
		require.NoError(t, err)
		require.Len(t, page.Records, 1)
		row = fmt.Sprintf(row, page.Records[0].Partition)
		text, err := json.Marshal(page.Records[0])
		require.NoError(t, err)
		require.JSONEq(t, "{"+row+", "+delivery+"}", string(text))

		show := func(most int) string {
			t.Helper()
			shown, err := w.admin.ShowCut(t.Context(), id, most)
			require.NoError(t, err)
			text, err := json.Marshal(shown)
			require.NoError(t, err)
			return string(text)
		}
		const rest = `, "deliveries": [{` + delivery + `}], "history": []`
		require.JSONEq(t, `{`+row+`, "payload_bytes": 2, "payload": "{}"`+rest+`}`, show(10))
		require.JSONEq(t, `{`+row+`, "payload_bytes": 2, "payload": "{", "payload_cut": true`+rest+`}`, show(1))
		require.JSONEq(t, `{`+row+`, "payload_bytes": 2`+rest+`}`, show(0), "nobody asked for it")
		db.Exec(t, "UPDATE endstate_outbox SET payload = $1", []byte("\xff\x00"))
		require.JSONEq(t, `{`+row+`, "payload_bytes": 2, "payload_base64": "/wA="`+rest+`}`, show(10))

		// A time that JSON has no form for is left out, and the rest is there.
		if !db.SQLite {
			db.Exec(t, "ALTER TABLE endstate_outbox DROP CONSTRAINT endstate_outbox_occurred_at_check")
		}
		db.Exec(t, "UPDATE endstate_outbox SET occurred_at = '12026-01-02T03:04:05Z'")
		require.JSONEq(t, strings.Replace(`{`+row+`, "payload_bytes": 2`+rest+`}`, `"occurred_at": "2026-01-02T03:04:04Z", `, "", 1), show(0))
	})
}

// The history goes on page by page, and a subscription's is found however rare its entries are, some thousand looked at at a time.
func TestTheHistoryGoesOn(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		admin := db.admin(t)
		const n = 11_000
		fill := "INSERT INTO endstate_outbox_audit (subscription, action, by_whom, reason) SELECT CASE WHEN n IN (1, 3, 10500) THEN 'rare' ELSE 'default' END, 'drop', 'ada', CAST(n AS text) FROM "
		if db.SQLite {
			fill += fmt.Sprintf("(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < %d) SELECT n FROM c)", n)
		} else {
			fill += fmt.Sprintf("generate_series(1, %d) n", n)
		}
		db.Exec(t, fill)
		read := func(subscription string, limit int) (reasons []string, looks int) {
			t.Helper()
			for before := int64(0); looks == 0 || before != 0; looks++ {
				list, next, err := admin.History(t.Context(), subscription, before, limit)
				require.NoError(t, err)
				require.LessOrEqual(t, len(list), limit)
				for _, i := range list {
					reasons = append(reasons, i.Why)
				}
				before = next
			}
			return reasons, looks
		}
		all, looks := read("", 1000)
		require.Len(t, all, n)
		require.Equal(t, 12, looks, "the last one finds that there is no more")
		for i, why := range all {
			require.Equal(t, fmt.Sprint(n-i), why)
		}
		rare, looks := read("rare", 10)
		require.Equal(t, []string{"10500", "3", "1"}, rare)
		require.Equal(t, 3, looks)
		rare, _ = read("rare", 1)
		require.Equal(t, []string{"10500", "3", "1"}, rare)
		_, _, err := admin.History(t.Context(), "", 0, 0)
		require.ErrorContains(t, err, "limit is 0")
	})
}
