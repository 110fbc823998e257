package relay_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// ordered is a publisher that keeps a batch's order, and panics with any in which a certain event has company.
type ordered struct {
	recorder
	panics  atomic.Int64
	longest atomic.Int64
}

func (o *ordered) KeepsOrder() bool { return true }

func (o *ordered) Publish(_ context.Context, batch []outbox.Event) []error {
	o.mu.Lock()
	defer o.mu.Unlock()
	poison := func(e outbox.Event) bool { return e.AggregateID == "a1" && e.Type == "2" }
	if len(batch) > 1 && slices.ContainsFunc(batch, poison) {
		o.panics.Add(1)
		panic("a batch with that event")
	}
	if poison(batch[0]) && o.fail(batch[0]) != nil {
		return []error{errors.New("that event")}
	}
	o.longest.Store(max(o.longest.Load(), int64(len(batch))))
	o.events = append(o.events, batch...)
	return nil
}

// A publisher that keeps a batch's order gets several events of one aggregate at once. Where the batch fails as a whole, they are
// published one by one, and none overtakes an earlier one of its aggregate that is refused.
func TestAnOrderedPublishersBatchFailsAsAWhole(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 3, 5)
		refused := 0
		o := &ordered{}
		o.fail = func(outbox.Event) error {
			if refused++; refused > 2 {
				return nil
			}
			return errors.New("refused")
		}
		run(t, db.relay(t, o, quick()))
		db.settled(t)
		for _, a := range []string{"a0", "a1", "a2"} {
			require.Equal(t, numbered(5), o.first(a))
		}
		require.Len(t, o.published(), 15)
		require.Positive(t, o.panics.Load())
		db.aggregates(t, 1, 5) // of one aggregate only
		db.settled(t)
		require.Greater(t, o.longest.Load(), int64(1))
	})
}
