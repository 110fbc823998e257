package relay

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// A busy relay reads while it publishes, but never ahead of a move: what is read meanwhile is of other partitions than what is
// published.
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
	s.mine, s.full = slices.Clone(s.every), true
	ahead := func() {
		s.forget()
		s.ahead = s.startReading(t.Context(), s.turns()[0], 10)
	}
	require.Len(t, s.turns(), 2)
	ahead()
	require.NoError(t, s.housekeep(t.Context()))
	s.balanced = s.balanced.Add(-s.balancing())
	_, err := s.round(t.Context())
	require.NoError(t, err)
	require.Nil(t, s.ahead)
	for name, change := range map[string]func(*script){
		"parked": func(s *script) { s.waiting = true }, "careful": func(s *script) { s.careful = true }, "placing": func(s *script) { s.placing = true },
		"outage": func(s *script) { s.gauge.failures = 1 }, "a rate": func(s *script) { s.gauge.rate = 5 }, "beyond the cursor": func(s *script) { s.sent[1] = map[int64]bool{1: true} },
	} {
		s.next(nil)
		s.mine, s.full = slices.Clone(s.every), true
		change(s)
		require.Len(t, s.turns(), 1, name)
		require.NoError(t, s.store.release(t.Context(), s.lease.id))
	}
}

// In a long outage a try reads about a batch; only now and then it looks further, for an event that the destination takes.
func TestTriesInAnOutageReadLittle(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	rows := 0
	for s.gauge.failures = 1; s.gauge.failures <= 1600; s.gauge.failures++ {
		if n := s.limit(); s.gauge.failures%16 != 0 && s.gauge.failures > 16 {
			require.LessOrEqual(t, n, s.cfg.BatchSize)
			rows += n
		}
	}
	s.gauge.failures = 32
	require.Equal(t, maxBatchSize, s.limit())
}
