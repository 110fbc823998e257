package relay_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

var replaying = relay.By{Subscription: "default", Who: "ada", Why: "the partner lost a day"}

// history makes six published events of one aggregate, an hour apart, of which the second is dead and the fifth was set aside,
// and the samples of the cursor on its way.
func history(t *testing.T, db *database) (ids []uuid.UUID, seqs []int64, at func(hour int) time.Time) {
	t.Helper()
	at = func(hour int) time.Time { return time.Date(2024, 1, 1, hour, 0, 0, 0, time.UTC) }
	p := outbox.Partition("order", "7")
	for hour := range 6 {
		id, seq := db.insert(t, "order.paid", "7")
		db.Exec(t, fmt.Sprintf("UPDATE endstate_outbox SET created_at = '%s' WHERE seq = %d", at(hour).Format("2006-01-02T15:04:05.000Z"), seq))
		ids, seqs = append(ids, id), append(seqs, seq)
	}
	db.subscribe(t, "default", "[]", seqs[5])
	for hour, seq := range seqs {
		db.Exec(t, fmt.Sprintf("INSERT INTO endstate_outbox_samples (subscription, partition, at, position) VALUES ('default', %d, '%s', %d)", p, at(hour).Add(time.Minute).Format("2006-01-02T15:04:05.000Z"), seq))
	}
	db.park(t, "default", ids[1], "dead_at = parked_at")
	db.park(t, "default", ids[4], "next_attempt_at = '9999-01-01T00:00:00Z'")
	return ids, seqs, at
}

func (db *database) cursor(t *testing.T, aggregate string) (position int64, token string) {
	t.Helper()
	db.scan(t, fmt.Sprintf("SELECT position, CAST(token AS text) FROM endstate_outbox_cursors WHERE subscription = 'default' AND partition = %d", outbox.Partition("order", aggregate)), &position, &token)
	return position, token
}

func TestReplaySetsTheCursorsBack(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		ids, seqs, at := history(t, db)
		ctx, admin := t.Context(), db.admin(t)
		_, before := db.cursor(t, "7")
		planned, err := admin.Replay(ctx, replaying, relay.Replay{From: at(3), DryRun: true})
		require.NoError(t, err)
		require.Equal(t, relay.Replayed{Events: 3}, planned)
		position, token := db.cursor(t, "7")
		require.Equal(t, seqs[5], position)
		require.Equal(t, before, token)

		done, err := admin.Replay(ctx, replaying, relay.Replay{From: at(3)})
		require.NoError(t, err)
		require.Equal(t, planned, done)
		position, token = db.cursor(t, "7")
		require.Equal(t, seqs[2], position)
		require.NotEqual(t, before, token, "a relay that is about to move finds another")
		require.Equal(t, map[uuid.UUID]bool{ids[1]: true}, db.setAside(t), "what is read again was taken back, a dead letter below stays")
		if !db.SQLite {
			var prior int64
			db.scan(t, fmt.Sprintf("SELECT prior_position FROM endstate_outbox_cursors WHERE partition = %d", outbox.Partition("order", "7")), &prior)
			require.Equal(t, seqs[2], prior)
		}

		// Again, further back, and over the dead letter.
		for _, dead := range []bool{false, true} {
			_, err = admin.Replay(ctx, replaying, relay.Replay{From: at(-5), Dead: dead})
			require.NoError(t, err)
			position, _ = db.cursor(t, "7")
			require.Zero(t, position)
			require.Equal(t, !dead, db.setAside(t)[ids[1]])
		}
		// Forward is no replay.
		_, err = admin.Replay(ctx, replaying, relay.Replay{From: at(4)})
		require.NoError(t, err)
		position, _ = db.cursor(t, "7")
		require.Zero(t, position)

		log, _, err := admin.History(ctx, "default", 0, 10)
		require.NoError(t, err)
		require.Len(t, log, 4)
		require.Equal(t, "replay", log[3].Action)
		require.Equal(t, replaying, log[3].By)
		require.Equal(t, "from 2024-01-01T03:00:00Z", log[3].Detail)
	})
}

// A dead letter that a replay has put before the cursor is fresh but for its record, which keeps it from being published.
func TestDiscardWaitsForTheCursor(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		ids, _, at := history(t, db)
		ctx, admin := t.Context(), db.admin(t)
		_, err := admin.Replay(ctx, replaying, relay.Replay{From: at(-5)})
		require.NoError(t, err)
		done, err := admin.Discard(ctx, replaying, ids[1])
		require.NoError(t, err)
		require.Empty(t, done)
		require.True(t, db.setAside(t)[ids[1]])
		r := &recorder{}
		run(t, db.relay(t, r, quick()))
		eventually(t, "all but the dead one", func() bool { return len(r.published()) == 5 })
		eventually(t, "the cursor to be past it", func() bool {
			done, err := admin.Discard(ctx, replaying, ids[1])
			return err == nil && len(done) == 1
		})
		require.Len(t, r.published(), 5)
	})
}

func TestReplayOfARangeLeavesTheCursors(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		ids, _, at := history(t, db)
		ctx, admin := t.Context(), db.admin(t)
		position, token := db.cursor(t, "7")
		r := relay.Replay{From: at(1), To: at(4), DryRun: true}
		planned, err := admin.Replay(ctx, replaying, r)
		require.NoError(t, err)
		require.Equal(t, int64(3), planned.Events)
		r.DryRun = false
		done, err := admin.Replay(ctx, replaying, r)
		require.NoError(t, err)
		require.Equal(t, relay.Replayed{Events: 2}, done, "one is dead")
		require.Equal(t, map[uuid.UUID]bool{ids[1]: true, ids[2]: false, ids[3]: false, ids[4]: false}, db.setAside(t))
		p, tok := db.cursor(t, "7")
		require.Equal(t, position, p)
		require.Equal(t, token, tok)
		done, err = admin.Replay(ctx, replaying, r)
		require.NoError(t, err)
		require.Zero(t, done.Events, "they wait already")
		r.Dead = true
		done, err = admin.Replay(ctx, replaying, r)
		require.NoError(t, err)
		require.Equal(t, int64(1), done.Events)
		require.Equal(t, map[uuid.UUID]bool{ids[1]: false, ids[2]: false, ids[3]: false, ids[4]: false}, db.setAside(t))
	})
}

// setAside are the events that the subscription "default" has set aside, and which of them are dead.
func (db *database) setAside(t *testing.T) map[uuid.UUID]bool {
	t.Helper()
	page, err := db.admin(t).List(t.Context(), relay.Filter{})
	require.NoError(t, err)
	set := map[uuid.UUID]bool{}
	for _, r := range page.Records {
		if r.ParkedAt.IsZero() {
			continue
		}
		set[r.ID] = r.State == relay.Dead
	}
	return set
}

func TestReplaySaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	each(t, []string{"sqlite-wal"}, writer, func(t *testing.T, db *database) {
		db.subscribe(t, "default", "[]", 0)
		now := time.Now()
		for said, r := range map[string]relay.Replay{
			"Replay.From is zero":                {To: now},
			"Replay.To is not after Replay.From": {From: now, To: now.Add(-time.Second)},
		} {
			_, err := db.admin(t).Replay(t.Context(), replaying, r)
			require.ErrorIs(t, err, outbox.ErrConfig)
			require.ErrorContains(t, err, said)
		}
		_, err := db.admin(t).Replay(t.Context(), relay.By{Subscription: "nobody's", Who: "ada", Why: "why"}, relay.Replay{From: now})
		require.ErrorIs(t, err, relay.ErrNoSubscription)
	})
}

func TestDropASubscriptionThatIsGone(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		history(t, db)
		ctx, admin := t.Context(), db.admin(t)
		db.Exec(t, "INSERT INTO endstate_outbox_relays (id, subscription, name, expires_at) VALUES ('"+uuid.NewString()+"', 'default', 'here', '9999-01-01T00:00:00Z')")
		require.ErrorIs(t, admin.Drop(ctx, replaying), relay.ErrLive)
		db.Exec(t, "UPDATE endstate_outbox_relays SET expires_at = '2024-01-01T00:00:00Z'")
		require.NoError(t, admin.Drop(ctx, replaying))
		require.ErrorIs(t, admin.Drop(ctx, replaying), relay.ErrNoSubscription)
		for _, table := range []string{"subscriptions", "cursors", "parked", "relays", "samples"} {
			var n int
			db.scan(t, "SELECT count(*) FROM endstate_outbox_"+table, &n)
			require.Zero(t, n, table)
		}
		stats, err := admin.Stats(ctx)
		require.NoError(t, err)
		require.Empty(t, stats)
		log, _, err := admin.History(ctx, "default", 0, 10)
		require.NoError(t, err)
		require.Len(t, log, 1, "a refused one isn't recorded")
	})
}

// An event is published while an earlier one of its partition isn't, so that the cursor hasn't passed it. A replay has it published
// again all the same.
func TestReplayOfWhatTheCursorHasNotPassed(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		first, second := event("first", ""), event("second", "")
		for i := 0; second.AggregateID == first.AggregateID || outbox.Partition(second.AggregateType, second.AggregateID) != outbox.Partition(first.AggregateType, first.AggregateID); i++ {
			second.AggregateID = fmt.Sprint(i)
		}
		db.Put(t, first, second)
		var away atomic.Bool
		away.Store(true)
		var refused atomic.Int64
		r := &recorder{fail: func(e outbox.Event) error {
			if e.Type == "first" && away.Load() {
				refused.Add(1)
				return outbox.RetryAfter(errors.New("not yet"), time.Hour)
			}
			return nil
		}}
		cfg := quick()
		relay.SetPatience(cfg, time.Hour)
		run(t, db.relay(t, r, cfg))
		eventually(t, "the first is refused again", func() bool { return refused.Load() > 1 })
		require.Len(t, r.published(), 1, "the second was published before, and isn't meanwhile")
		_, err := db.admin(t).Replay(t.Context(), replaying, relay.Replay{From: time.Unix(1, 0)})
		require.NoError(t, err)
		away.Store(false)
		db.settled(t)
		times := map[string]int{}
		for _, e := range r.published() {
			times[e.Type]++
		}
		require.Equal(t, map[string]int{"first": 1, "second": 2}, times)
	})
}
