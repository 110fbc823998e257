package outbox_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// states puts an event of each state, and returns their ids.
func (db *database) states(t *testing.T) map[outbox.State]uuid.UUID {
	t.Helper()
	ids := map[outbox.State]uuid.UUID{}
	for _, state := range []outbox.State{outbox.Dead, outbox.Retrying, outbox.Behind, outbox.Published, outbox.Pending} {
		e := event(string(state), "")
		e.AggregateID = string(state)
		e.Headers = map[string]string{"h": "v"}
		ids[state] = db.put(t, e)[0].ID
	}
	later := "'9999-01-01T00:00:00Z'"
	db.exec(t, "UPDATE endstate_outbox SET dead_at = created_at, attempts = 7, crashes = 2, last_error = 'refused' WHERE type = 'dead'")
	db.exec(t, "UPDATE endstate_outbox SET next_attempt_at = "+later+", attempts = 2, last_error = 'away' WHERE type = 'retrying'")
	db.exec(t, "UPDATE endstate_outbox SET next_attempt_at = 'infinity' WHERE type = 'behind'")
	db.exec(t, "UPDATE endstate_outbox SET published_at = created_at WHERE type = 'published'")
	return ids
}

func TestAdminListsByState(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		ids := db.states(t)
		ctx, admin := t.Context(), db.admin(t)
		all, err := admin.List(ctx, outbox.Filter{})
		require.NoError(t, err)
		require.Len(t, all, 5)
		require.True(t, slices.IsSortedFunc(all, func(a, b outbox.Record) int { return int(a.Seq - b.Seq) }))
		for _, r := range all {
			require.Equal(t, ids[r.State], r.ID, r.State)
			require.Equal(t, string(r.State), r.Type)
			require.Equal(t, map[string]string{"h": "v"}, r.Headers)
			require.Empty(t, r.Payload)
			require.WithinDuration(t, time.Now(), r.CreatedAt, time.Minute)
			require.Equal(t, outbox.Shard(r.AggregateType, r.AggregateID), r.Shard)
			require.Equal(t, r.State == outbox.Dead, !r.DeadAt.IsZero())
			require.Equal(t, r.State == outbox.Published, !r.PublishedAt.IsZero())
			require.Equal(t, r.State == outbox.Retrying, !r.NextAttemptAt.IsZero())

			one, err := admin.List(ctx, outbox.Filter{State: r.State})
			require.NoError(t, err)
			require.Equal(t, []outbox.Record{r}, one)
			one, err = admin.List(ctx, outbox.Filter{AggregateType: r.AggregateType, AggregateID: r.AggregateID, Type: r.Type, State: r.State})
			require.NoError(t, err)
			require.Equal(t, []outbox.Record{r}, one)
		}
		page, err := admin.List(ctx, outbox.Filter{AfterSeq: all[1].Seq, Limit: 2})
		require.NoError(t, err)
		require.Equal(t, all[2:4], page)
		none, err := admin.List(ctx, outbox.Filter{State: outbox.Pending, AggregateID: "elsewhere"})
		require.NoError(t, err)
		require.Empty(t, none)

		shown, history, err := admin.Show(ctx, ids[outbox.Dead])
		require.NoError(t, err)
		require.Empty(t, history)
		require.Equal(t, event("", "").Payload, shown.Payload)
		require.Equal(t, 7, shown.Attempts)
		require.Equal(t, 2, shown.Crashes)
		require.Equal(t, "refused", shown.LastError)
		_, _, err = admin.Show(ctx, uuid.New())
		require.ErrorIs(t, err, outbox.ErrNotFound)

		_, err = admin.List(ctx, outbox.Filter{State: "lost"})
		require.ErrorContains(t, err, `Filter.State is "lost"`)
		_, err = admin.List(ctx, outbox.Filter{Limit: -1})
		require.ErrorContains(t, err, "Filter.Limit is -1")
	})
}

func TestDeadLettersAreRetriedOrDiscardedOnTheRecord(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		ids := db.states(t)
		ctx, admin := t.Context(), db.admin(t)
		every := []uuid.UUID{ids[outbox.Pending], ids[outbox.Dead], ids[outbox.Published], ids[outbox.Retrying], ids[outbox.Behind], uuid.New()}
		for _, bad := range [][2]string{{"", "why"}, {"who", ""}, {"w\x00o", "why"}} {
			_, err := admin.Retry(ctx, bad[0], bad[1], every...)
			require.ErrorIs(t, err, outbox.ErrConfig)
		}
		before, err := admin.List(ctx, outbox.Filter{})
		require.NoError(t, err)

		done, err := admin.Retry(ctx, "ada", "the broker's limit is higher now", every...)
		require.NoError(t, err)
		require.Equal(t, []uuid.UUID{ids[outbox.Dead]}, done, "only what is dead")
		done, err = admin.Retry(ctx, "ada", "again", every...)
		require.NoError(t, err)
		require.Empty(t, done)
		revived, history, err := admin.Show(ctx, ids[outbox.Dead])
		require.NoError(t, err)
		require.Equal(t, outbox.Pending, revived.State)
		require.Zero(t, revived.Attempts)
		require.Zero(t, revived.Crashes)
		require.Len(t, history, 1)
		require.WithinDuration(t, time.Now(), history[0].At, time.Minute)
		history[0].At = time.Time{}
		require.Equal(t, outbox.Intervention{Action: "retry", EventID: ids[outbox.Dead], By: "ada", Why: "the broker's limit is higher now", Attempts: 7, LastError: "refused"}, history[0])

		after, err := admin.List(ctx, outbox.Filter{AfterSeq: revived.Seq})
		require.NoError(t, err)
		require.Equal(t, before[1:], after, "the others are as they were")

		db.exec(t, "UPDATE endstate_outbox SET dead_at = created_at WHERE type = 'dead'")
		done, err = admin.Discard(ctx, "bob", "obsolete", every...)
		require.NoError(t, err)
		require.Equal(t, []uuid.UUID{ids[outbox.Dead]}, done)
		require.Equal(t, 4, db.count(t))
		require.Equal(t, 2, one[int](t, db, "SELECT count(*) FROM endstate_outbox_audit"), "what was discarded stays on the record")
	})
}

// Each thousand commits by itself; what is done must not be reported as not done when a later one fails.
func TestDeadLettersDoneBeforeAnErrorAreTold(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		ctx, admin := t.Context(), db.admin(t)
		events := make([]outbox.Event, 1001)
		for i := range events {
			events[i] = event(fmt.Sprint(i), "")
		}
		var ids []uuid.UUID
		for _, r := range db.put(t, events...) {
			ids = append(ids, r.ID)
		}
		die := "UPDATE endstate_outbox SET dead_at = created_at"
		db.exec(t, die)
		_, err := admin.Retry(ctx, "ada", "first", ids[1000])
		require.NoError(t, err)
		db.exec(t, die)
		db.exec(t, "CREATE UNIQUE INDEX once ON endstate_outbox_audit (event_id)") // the last one can't be recorded again
		done, err := admin.Retry(ctx, "ada", "again", ids...)
		require.ErrorContains(t, err, "outbox: retry: ")
		require.ElementsMatch(t, ids[:1000], done)
		stats, err := admin.Stats(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 1, stats.Dead)
	})
}

func TestPurgeDeletesOldPublishedEventsOnly(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		ctx, admin := t.Context(), db.admin(t)
		// More than a purge looks at in one go lie before what is to be purged: dead letters, and events that were published late.
		events := make([]outbox.Event, 5000)
		for i := range events {
			events[i] = event(fmt.Sprint(i), "")
		}
		db.put(t, events...)
		old := "clock_timestamp() - interval '2 hours'"
		if db.sqlite {
			old = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-2 hours')"
		}
		first := one[int](t, db, "SELECT min(seq) FROM endstate_outbox")
		db.exec(t, fmt.Sprintf("UPDATE endstate_outbox SET dead_at = created_at WHERE seq < %d", first+1500))
		db.exec(t, fmt.Sprintf("UPDATE endstate_outbox SET published_at = created_at WHERE seq >= %d AND seq < %d", first+1500, first+3000))
		db.exec(t, fmt.Sprintf("UPDATE endstate_outbox SET published_at = %s WHERE seq >= %d AND seq < %d", old, first+3000, first+4500))
		db.exec(t, fmt.Sprintf("UPDATE endstate_outbox SET created_at = %s WHERE seq < %d", old, first+4500))
		db.exec(t, fmt.Sprintf("UPDATE endstate_outbox SET published_at = created_at WHERE seq >= %d AND seq < %d", first+4500, first+4900))
		n, err := admin.Purge(ctx, 3*time.Hour)
		require.NoError(t, err)
		require.Zero(t, n)
		n, err = admin.Purge(ctx, time.Hour)
		require.NoError(t, err)
		require.EqualValues(t, 1500, n)
		stats, err := admin.Stats(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 100, stats.Pending)
		require.EqualValues(t, 1500, stats.Dead)
		require.Equal(t, 3500, db.count(t))
		_, err = admin.Purge(ctx, -time.Second)
		require.ErrorIs(t, err, outbox.ErrConfig)
	})
}

func TestStatsCount(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		ctx, admin := t.Context(), db.admin(t)
		empty, err := admin.Stats(ctx)
		require.NoError(t, err)
		require.Equal(t, outbox.Stats{Unowned: outbox.Shards}, empty)
		db.states(t)
		stats, err := admin.Stats(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 1, stats.Pending)
		require.EqualValues(t, 2, stats.Retrying)
		require.EqualValues(t, 1, stats.Dead)
		require.False(t, stats.AtLeast)
		require.Less(t, stats.OldestAge, time.Minute)
		old := "clock_timestamp() - interval '2 hours'"
		if db.sqlite {
			old = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-2 hours')"
		}
		for _, state := range []string{"pending", "behind"} {
			db.exec(t, "UPDATE endstate_outbox SET created_at = "+old+" WHERE type = '"+state+"'")
			stats, err = admin.Stats(ctx)
			require.NoError(t, err)
			require.InDelta(t, 2*time.Hour, stats.OldestAge, float64(time.Minute), state)
			db.exec(t, "UPDATE endstate_outbox SET created_at = occurred_at WHERE type = '"+state+"'")
		}
		db.exec(t, "UPDATE endstate_outbox SET created_at = "+old+" WHERE type IN ('dead', 'published')")
		stats, err = admin.Stats(ctx)
		require.NoError(t, err)
		require.Less(t, stats.OldestAge, time.Minute, "what is dead or published is no backlog")
	})
}
