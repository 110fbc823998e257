package relay_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/migrations"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// A subscription's patterns, and what people look for, may have any character that a type may have.
func TestTypesAreTakenLiterally(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		admin := db.admin(t)
		odd := `it's "5%" \ $1 ? é_`
		if !dbtest.Apostrophes() {
			odd = strings.NewReplacer("'", "", "$", "").Replace(odd)
		}
		db.Put(t, outbox.Event{AggregateType: "order", AggregateID: "1", Type: odd, Payload: []byte("{}")}, outbox.Event{AggregateType: "order", AggregateID: "2", Type: "other", Payload: []byte("{}")})
		list, err := json.Marshal([]string{odd[:len(odd)-1] + "*"})
		require.NoError(t, err)
		db.Exec(t, "INSERT INTO endstate_outbox_subscriptions (name, types, destination, start) VALUES ('odd', $1, '', 'begin')", string(list))
		stats, err := admin.Stats(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, stats[0].Pending)
		page, err := admin.List(t.Context(), relay.Filter{Subscription: "odd", Type: odd})
		require.NoError(t, err)
		require.Len(t, page.Records, 1)
		_, err = admin.Replay(t.Context(), relay.By{Subscription: "odd", Who: "ada", Why: "lost"}, relay.Replay{From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour)})
		require.NoError(t, err)
	})
}

// Whatever is looked for, a list has what it should, or says what is wrong with it.
func FuzzFilter(f *testing.F) {
	f.Add("completed", "batch", "7", "refused", "completed*", int64(0), "dead")
	db := dbtest.SQLite(f)
	require.NoError(f, migrations.ApplySQL(f.Context(), db, ""))
	admin, err := relay.NewAdminSQL(db, nil)
	require.NoError(f, err)
	exec := func(t testing.TB, query string, args ...any) {
		t.Helper()
		_, err := db.ExecContext(t.Context(), query, args...)
		require.NoError(t, err, query)
	}
	exec(f, "INSERT INTO endstate_outbox_subscriptions (name, types, destination, start) VALUES ('default', '[]', '', 'begin')")
	f.Fuzz(func(t *testing.T, typ, aggregateType, aggregateID, failure, pattern string, after int64, state string) {
		exec(t, "DELETE FROM endstate_outbox")
		exec(t, "DELETE FROM endstate_outbox_parked")
		insert := func(seq int, e outbox.Event) {
			exec(t, "INSERT INTO endstate_outbox (seq, partition, id, aggregate_type, aggregate_id, type, payload, headers) VALUES ($1, $2, $3, $4, $5, $6, CAST('{}' AS BLOB), '{}')",
				seq, outbox.Partition(e.AggregateType, e.AggregateID), e.ID.String(), e.AggregateType, e.AggregateID, e.Type)
		}
		e := outbox.Event{ID: uuid.New(), AggregateType: aggregateType, AggregateID: aggregateID, Type: typ}
		for _, text := range []string{typ, aggregateType, aggregateID, failure, pattern} {
			if sqltx.CheckText(text) != nil || len(text) > outbox.MaxName {
				return
			}
		}
		if typ == "" || aggregateType == "" || aggregateID == "" || strings.Contains(strings.TrimSuffix(pattern, "*"), "*") {
			return
		}
		insert(1, e)
		insert(2, outbox.Event{ID: uuid.New(), AggregateType: aggregateType + "x", AggregateID: aggregateID, Type: typ + "x"})
		exec(t, "INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id, last_error, dead_at) SELECT 'default', partition, seq, id, aggregate_type, aggregate_id, $1, created_at FROM endstate_outbox WHERE seq = 1", failure)
		var patterns []string
		if pattern != "" {
			patterns = append(patterns, pattern)
		}
		list, err := json.Marshal(append([]string{}, patterns...))
		require.NoError(t, err)
		exec(t, "UPDATE endstate_outbox_subscriptions SET types = $1", string(list))
		page, err := admin.List(t.Context(), relay.Filter{State: relay.State(state), Type: typ, AggregateType: aggregateType, AggregateID: aggregateID, Error: failure, After: after, Newest: after < 0})
		if !slices.Contains([]string{"", "pending", "retrying", "behind", "dead", "published"}, state) {
			require.ErrorIs(t, err, outbox.ErrConfig)
			return
		}
		require.NoError(t, err)
		prefix, family := strings.CutSuffix(pattern, "*")
		matches := pattern == "" || typ == pattern || family && strings.HasPrefix(typ, prefix)
		want := 0
		if matches && (state == "" || state == "dead") && after <= 0 && (after == 0 || 1 < after) {
			want = 1
		}
		require.Len(t, page.Records, want)
		stats, err := admin.Stats(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, stats[0].Dead)
		shown, err := admin.Show(t.Context(), e.ID)
		require.NoError(t, err)
		require.Equal(t, matches, len(shown.Deliveries) == 1)
		_, _, _, err = admin.Aggregate(t.Context(), aggregateType, aggregateID, max(after, 0), time.Time{})
		require.NoError(t, err)
		_, err = admin.Show(t.Context(), uuid.Nil)
		require.True(t, errors.Is(err, relay.ErrNotFound))
	})
}
