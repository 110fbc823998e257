package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// watchedStore counts readings by lane, and loses the answer of a statement.
type watchedStore struct {
	store
	lanes map[lane]int
	lose  string
}

var errAnswerLost = errors.New("the answer is lost")

func (s *watchedStore) lost(what string, err error) error {
	if s.lose == what {
		s.lose = ""
		return errors.Join(errAnswerLost, err)
	}
	return err
}

func (s *watchedStore) read(ctx context.Context, epoch int64, q reading) ([]row, error) {
	s.lanes[q.lane]++
	return s.store.read(ctx, epoch, q)
}

func (s *watchedStore) take(ctx context.Context, epoch int64, n int) error {
	return s.lost("take", s.store.take(ctx, epoch, n))
}

func (s *watchedStore) trust(ctx context.Context, epoch int64) error {
	return s.lost("trust", s.store.trust(ctx, epoch))
}

// stepped is a relay that goes step by step.
type stepped struct {
	*term
	t         *testing.T
	store     *watchedStore
	published []string // aggregate id and type
}

func newStepped(t *testing.T) *stepped {
	ctx := t.Context()
	db, err := open(dbtest.Pool(t), "")
	require.NoError(t, err)
	cfg, err := (&RelayConfig{BatchSize: 64}).withDefaults()
	require.NoError(t, err)
	require.NoError(t, db.inTx(ctx, func(tx endstate.Tx) error { return Writer{}.Migrate(ctx, tx) }))
	s := &stepped{t: t, store: &watchedStore{store: newStore(db, &cfg), lanes: map[lane]int{}}}
	relay := &Relay{db: db, store: s.store, cfg: cfg, publisher: PublisherFunc(func(_ context.Context, e Event) error {
		s.published = append(s.published, e.AggregateID+" "+e.Type)
		return nil
	})}
	l := &lease{}
	l.epoch, err = s.store.register(ctx, "test", cfg.LeaseTTL)
	require.NoError(t, err)
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	s.term = &term{Relay: relay, lease: l, log: slog.New(slog.DiscardHandler), limit: cfg.BatchSize}
	return s
}

func (s *stepped) put(events ...Event) {
	require.NoError(s.t, s.db.inTx(s.t.Context(), func(tx endstate.Tx) error {
		_, err := Put(s.t.Context(), tx, events...)
		return err
	}))
}

// others puts events of as many aggregates.
func (s *stepped) others(name string, n int) {
	events := make([]Event, n)
	for i := range events {
		events[i] = of(fmt.Sprint(name, i), "paid")
	}
	s.put(events...)
}

func of(aggregate, eventType string) Event {
	return Event{AggregateType: "order", AggregateID: aggregate, Type: eventType, Payload: []byte("{}")}
}

// batches publishes up to n batches. The position never expires.
func (s *stepped) batches(n int) {
	for range n {
		_, err := s.batch(s.t.Context(), ready)
		require.NoError(s.t, err)
		s.position.lasts = time.Hour
	}
}

// follow publishes until begin follows; other tests' transactions on the same server may hold it.
func (s *stepped) follow() {
	for deadline := time.Now().Add(2 * time.Minute); s.position.begin == 0; {
		require.True(s.t, time.Now().Before(deadline), "begin follows")
		s.others(fmt.Sprint("more ", len(s.published), " "), 2*s.cfg.BatchSize)
		_, err := s.batch(s.t.Context(), ready)
		require.NoError(s.t, err)
	}
	s.position.lasts = time.Hour
}

// until goes on until this is published.
func (s *stepped) until(last string) {
	for deadline := time.Now().Add(time.Minute); !slices.Contains(s.published, last); {
		require.True(s.t, time.Now().Before(deadline), "%s is published", last)
		_, err := s.round(s.t.Context())
		require.NoError(s.t, err)
	}
}

func (s *stepped) requireOrder(of ...string) {
	require.Equal(s.t, of, slices.DeleteFunc(slices.Clone(s.published), func(p string) bool { return !slices.Contains(of, p) }))
}

// While a backlog is published, an event that was written early and is committed late goes out before those of its aggregate
// that came after it, though the relay has come past its number: nobody reads from where it came to before all has ended that
// may lie there.
func TestALateCommitKeepsItsOrder(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newStepped(t)
	require.NoError(t, s.balance(ctx))
	late, err := s.db.begin(ctx)
	require.NoError(t, err)
	_, err = late.Exec(ctx, "SELECT pg_current_xact_id()") // as whoever locks the aggregate's row
	require.NoError(t, err)
	s.others("before ", 100)
	_, err = Put(ctx, late, of("late", "first"))
	require.NoError(t, err)
	s.others("after ", 1000)
	s.batches(8)
	require.Equal(t, map[lane]int{ready: 1, next: 7}, s.store.lanes)
	require.Zero(t, s.position.begin)
	require.NoError(t, late.Commit(ctx))
	s.put(of("late", "second"))
	s.batches(10)
	require.Equal(t, 1, s.store.lanes[ready], "it was found on the way")
	s.requireOrder("late first", "late second")
	require.Equal(t, len(s.published), len(slices.Compact(slices.Sorted(slices.Values(s.published)))), "nothing twice")
}

// When the answer to a take is lost, the shards are this relay's nevertheless, and what waits in them comes first.
func TestShardsTakenWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	for name, failed := range map[string]bool{"pending": false, "failed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			s := newStepped(t)
			s.put(of("waiting", "first"))
			if failed {
				_, err := s.db.Exec(ctx, "UPDATE endstate_outbox SET next_attempt_at = now(), attempts = 1")
				require.NoError(t, err)
			}
			other, err := s.store.register(ctx, "other", s.cfg.LeaseTTL)
			require.NoError(t, err)
			_, err = s.db.Exec(ctx, "UPDATE endstate_outbox_shards SET epoch = CASE WHEN shard = $1 THEN $2::bigint ELSE $3::bigint END", Shard("order", "waiting"), other, s.lease.epoch)
			require.NoError(t, err)
			s.owned = Shards - 1
			s.follow()
			require.NoError(t, s.store.release(ctx, other))
			s.store.lose = "take"
			require.ErrorIs(t, s.balance(ctx), errAnswerLost)
			require.NoError(t, s.balance(ctx))
			s.put(of("waiting", "second"))
			s.until("waiting second")
			s.requireOrder("waiting first", "waiting second")
		})
	}
}

func TestShardsTrustedWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newStepped(t)
	s.put(of("waiting", "first"))
	_, err := s.db.Exec(ctx, "UPDATE endstate_outbox_shards SET epoch = $1, suspect_from = 1000000, suspect_to = CASE WHEN shard = $2 THEN 1000000 END", s.lease.epoch, Shard("order", "waiting"))
	require.NoError(t, err)
	_, err = s.db.Exec(ctx, "UPDATE endstate_outbox_shards SET suspect_from = NULL WHERE suspect_to IS NULL")
	require.NoError(t, err)
	require.NoError(t, s.balance(ctx))
	s.follow()
	require.True(t, s.suspects)
	s.balanced = time.Now()
	s.store.lose = "trust"
	_, err = s.round(ctx)
	require.ErrorIs(t, err, errAnswerLost)
	require.NoError(t, s.balance(ctx))
	require.False(t, s.suspects)
	s.put(of("waiting", "second"))
	s.until("waiting second")
	s.requireOrder("waiting first", "waiting second")
}

// A mark that was sent twice, since the first got no answer, and takes effect late, holds nothing back that was freed since.
func TestALateMarkHoldsNothingBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newStepped(t)
	require.NoError(t, s.balance(ctx))
	s.put(of("order", "first"), of("order", "second"))
	mark := func(o *outcome) {
		alive, err := s.store.mark(ctx, s.lease.epoch, o)
		require.NoError(t, err)
		require.True(t, alive)
	}
	failed := &outcome{failed: []failure{{Seq: 1, Counted: 1, Error: "refused"}}, held: []int64{2}}
	mark(failed)
	mark(&outcome{published: []int64{1}, promoted: []aggregate{{"order", "order", 1}}})
	mark(failed)
	rows, err := s.store.read(ctx, s.lease.epoch, reading{lane: due, limit: 10, perTurn: 1})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.EqualValues(t, 2, rows[0].seq)
}

func TestPosition(t *testing.T) {
	t.Parallel()
	batch := func(oldest, own int64, seqs ...int64) (rows []row) {
		for _, seq := range seqs {
			rows = append(rows, row{seq: seq, snapshot: snapshot{oldest, own}})
		}
		return rows
	}
	started := func() (p position) {
		p.start(100, 100, 0)
		p.advance(batch(10, 20, 101, 110), false)
		require.Equal(t, position{since: p.since, lasts: minLasts, reach: 110, seen: 100, candidate: 110, own: 20, tries: 1, allow: manyTries}, p)
		return p
	}
	for name, tt := range map[string]struct {
		rows  []row
		whole bool
		begin int64
	}{
		"one is under way":           {batch(19, 30, 111, 120), true, 0},
		"all have ended":             {batch(20, 30, 111, 120), false, 110},
		"something may be left":      {batch(20, 30, 105, 109), false, 0},
		"nothing is left":            {batch(20, 30, 105, 109), true, 110},
		"it ends where that one did": {batch(20, 30, 105, 110), false, 110},
	} {
		t.Run(name, func(t *testing.T) {
			p := started()
			p.advance(tt.rows, tt.whole)
			require.Equal(t, tt.begin, p.begin)
		})
	}

	// Something that stays open costs many readings once, and then few at a time, until begin goes on again.
	p := started()
	for p.follows() {
		p.advance(batch(10, 30, 111, 120), false)
	}
	require.Equal(t, manyTries, p.tries)
	p.rewind()
	require.False(t, p.ahead())
	p.start(200, 200, time.Hour)
	require.Equal(t, maxLasts, p.lasts)
	for p.follows() {
		p.advance(batch(10, 40, 201, 220), false)
	}
	require.Equal(t, fewTries, p.tries)
	p.advance(batch(50, 60, 221, 230), false)
	require.Positive(t, p.begin)
	require.Equal(t, manyTries, p.allow)
	p.since = p.since.Add(-maxLasts)
	p.expire()
	require.False(t, p.ahead())
	require.Equal(t, manyTries, p.allow)
}
