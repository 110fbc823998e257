package relay_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

type tryKey struct{}

// tries notes what the hooks report.
type tries struct {
	mu                   sync.Mutex
	open, taken, refused int
	ages                 map[string]time.Duration
	last                 relay.Try
	lost                 bool // a call didn't get its hook's context
}

func (n *tries) hooks() *relay.Trace {
	return &relay.Trace{
		Trying: func(ctx context.Context, try relay.Try) context.Context {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.open, n.last = n.open+1, relay.Try{Destination: try.Destination, Consumer: try.Consumer}
			return context.WithValue(ctx, tryKey{}, len(try.Events))
		},
		Tried: func(ctx context.Context, try relay.Try, errs []error, _ time.Duration) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.open--
			n.lost = n.lost || ctx.Value(tryKey{}) != len(try.Events)
			for i := range try.Events {
				if errs == nil || errs[i] == nil {
					n.taken++
				} else {
					n.refused++
				}
			}
		},
		Published: func(_ context.Context, e outbox.Event, age time.Duration) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.ages[e.AggregateID+"/"+e.Type] = age
		},
	}
}

// called notes whether a call has the context that its hook returned.
func (n *tries) called(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lost = n.lost || ctx.Value(tryKey{}) == nil
}

// Each call of Publish is between its hooks, in their context, and each event is reported once when it is published, with the
// time since it was put by the database's clock, whatever the event says of when it occurred.
func TestTriesAndAgesAreReported(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 20, 2)
		db.Exec(t, "UPDATE endstate_outbox SET occurred_at = '2001-01-01T00:00:00Z'")
		db.Exec(t, "UPDATE endstate_outbox SET created_at = '"+time.Now().Add(-time.Hour).UTC().Format("2006-01-02T15:04:05.000Z")+"' WHERE aggregate_id = 'a7'")
		noted := &tries{ages: map[string]time.Duration{}}
		failed := false
		r := &recorder{fail: func(e outbox.Event) error {
			if e.AggregateID == "a3" && !failed {
				failed = true
				return errors.New("once")
			}
			return nil
		}}
		cfg := quick()
		cfg.Trace, cfg.Destination = noted.hooks(), "nats://user:secret@broker:4222/path"
		stop := run(t, db.relay(t, publisherIn{r, noted.called}, cfg))
		db.settled(t)
		stop()
		require.Zero(t, noted.open)
		require.False(t, noted.lost)
		require.Equal(t, 40, noted.taken)
		require.Positive(t, noted.refused)
		require.Equal(t, relay.Try{Destination: "nats://broker:4222"}, noted.last)
		require.Len(t, noted.ages, 40)
		for of, age := range noted.ages {
			if of[:3] == "a7/" {
				require.InDelta(t, time.Hour, age, float64(30*time.Minute), of)
			} else {
				require.Less(t, age, 30*time.Minute, of)
				require.Positive(t, age, of)
			}
		}
	})
}

// So is each call of a consumer's handler; what it did counts as published when its transaction is committed.
func TestAConsumersTriesAreReported(t *testing.T) {
	t.Parallel()
	each(t, consumerKinds, writer, func(t *testing.T, db *database) {
		db.effects(t)
		db.aggregates(t, 10, 2)
		noted := &tries{ages: map[string]time.Duration{}}
		failed := false
		cfg := quick()
		cfg.Trace = noted.hooks()
		stop := run(t, db.consumer(t, func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
			noted.called(ctx)
			if err := apply(ctx, tx, e); err != nil {
				return err
			}
			if e.AggregateID == "a3" && !failed {
				failed = true
				return errors.New("once")
			}
			return nil
		}, cfg))
		db.settled(t)
		stop()
		db.requireOnce(t)
		require.Zero(t, noted.open)
		require.False(t, noted.lost)
		require.Equal(t, 1, noted.refused)
		require.GreaterOrEqual(t, noted.taken, 20)
		require.Equal(t, relay.Try{Destination: "handler", Consumer: true}, noted.last)
		require.Len(t, noted.ages, 20)
	})
}

// publisherIn calls a function with each call's context.
type publisherIn struct {
	outbox.Publisher
	called func(context.Context)
}

func (p publisherIn) Publish(ctx context.Context, batch []outbox.Event) []error {
	p.called(ctx)
	return p.Publisher.Publish(ctx, batch)
}

// How many partitions a relay owns is told from the first one on to the lease's end, whether the relay stops or loses it.
func TestPartitionsAreReportedToTheLeasesEnd(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		owned := make(chan int, 100)
		cfg := quick()
		cfg.Trace = &relay.Trace{Owns: func(_ context.Context, partitions int) { owned <- partitions }}
		stop := run(t, db.relay(t, &recorder{}, cfg))
		require.Equal(t, outbox.Partitions, <-owned)
		db.Exec(t, "DELETE FROM endstate_outbox_relays")
		db.Exec(t, "UPDATE endstate_outbox_cursors SET owner = NULL")
		for partitions := -1; partitions != 0; {
			partitions = <-owned
		}
		for partitions := 0; partitions != outbox.Partitions; {
			partitions = <-owned
		}
		stop()
		for partitions := -1; partitions != 0; {
			partitions = <-owned
		}
	})
}

// A hook that panics ends Run, and leaves nothing running. The relay can be run again.
func TestAHookThatPanicsEndsRun(t *testing.T) {
	db := newDatabase(t, "sqlite-wal")
	db.Migrate(t, *writer)
	db.aggregates(t, 3, 2)
	cfg := quick()
	panicked := false
	cfg.Trace = &relay.Trace{Published: func(context.Context, outbox.Event, time.Duration) {
		if !panicked {
			panicked = true
			panic("the hook's")
		}
	}}
	r := &recorder{}
	rel := db.relay(t, r, cfg)
	before := goleak.IgnoreCurrent()
	require.PanicsWithValue(t, "the hook's", func() { _ = rel.Run(t.Context()) })
	require.NoError(t, goleak.Find(before))
	run(t, rel)
	db.settled(t)
	for a := range 3 {
		require.Equal(t, numbered(2), r.first(fmt.Sprint("a", a)))
	}
}
