package relay

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// F35: a busy relay reads while it publishes, but never ahead of a move: what is read meanwhile is of other partitions than what
// is published.
func TestReadingAheadIsOfOtherPartitions(t *testing.T) {
	t.Parallel()
	s := newScript(t, func(c *Config) { c.BatchSize = 16 })
	ctx := t.Context()
	const aggregates, each = 40, 5
	var events []outbox.Event
	for i := range each {
		for a := range aggregates {
			events = append(events, outbox.Event{AggregateType: "order", AggregateID: fmt.Sprint(a), Type: fmt.Sprint(i), Payload: []byte("{}")})
		}
	}
	tx := s.begin()
	_, err := outbox.Put(ctx, tx, events...)
	require.NoError(t, err)
	s.commit(tx)
	published, beside := map[string]int{}, 0
	s.publisher = outbox.PublisherFunc(func(_ context.Context, e outbox.Event) error {
		if s.ahead != nil {
			beside++
			require.NotContains(t, s.ahead.partitions, outbox.Partition(e.AggregateType, e.AggregateID))
		}
		require.Equal(t, fmt.Sprint(published[e.AggregateID]), e.Type, e.AggregateID)
		published[e.AggregateID]++
		return nil
	})
	for range 2 * len(events) {
		s.step()
	}
	require.Len(t, published, aggregates)
	for a, n := range published {
		require.Equal(t, each, n, a)
	}
	require.Positive(t, beside)
	require.Nil(t, s.ahead, "with nothing to do, nothing is read ahead")
}

// What is read ahead is thrown away before anything that may change whose partitions these are, or what of them is parked.
func TestWhatIsReadAheadIsForgotten(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	busy := func() {
		s.mine, s.full, s.waiting = slices.Clone(s.every), true, false
		require.Len(t, s.turns(), 2)
	}
	busy()
	old := s.startReading(t.Context(), s.turns()[0], 10)
	s.ahead = old
	s.balanced = time.Now().Add(-s.balancing())
	_, err := s.round(t.Context())
	require.NoError(t, err)
	require.NotSame(t, old, s.ahead, "it was time to look at the shares")
	require.Nil(t, s.ahead, "and there was nothing to publish")
	for name, change := range map[string]func(*script){
		"parked": func(s *script) { s.waiting = true }, "careful": func(s *script) { s.careful = true }, "placing": func(s *script) { s.placing = true },
		"outage": func(s *script) { s.gauge.failures = 1 }, "a rate": func(s *script) { s.gauge.rate = 5 }, "beyond the cursor": func(s *script) { s.sent[1] = map[int64]bool{1: true} },
	} {
		require.NoError(t, s.store.release(t.Context(), s.lease.id))
		s.next(nil)
		busy()
		change(s)
		require.Len(t, s.turns(), 1, name)
	}
}

// In a long outage a try reads about a batch; only now and then it looks further, for an event that the destination takes.
func TestTriesInAnOutageReadLittle(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	for s.gauge.failures = 1; s.gauge.failures <= 1600; s.gauge.failures++ {
		if n := s.limit(); s.gauge.failures%16 != 0 && s.gauge.failures > 16 {
			require.LessOrEqual(t, n, s.cfg.BatchSize)
		}
	}
	s.gauge.failures = 32
	require.Equal(t, maxBatchSize, s.limit())
}
