package natsjs

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// A relay publishes to three nodes, of which the stream's leader dies midway. All that was committed is in the stream, once
// and in order per aggregate.
func TestALeaderDiesUnderLoad(t *testing.T) {
	t.Parallel()
	const aggregates, each = 50, 40
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	nodes := startCluster(t)
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.url)
	}
	conn := connect(t, nil, urls...)
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	stream := createStream(t, js, jetstream.StreamConfig{Name: "EVENTS", Subjects: []string{"events.>"}, Replicas: len(nodes)})

	// More is put while the relay runs, so that the leader dies with calls in flight.
	db := newSQLite(t)
	in := func(do func(tx endstate.Tx) error) {
		tx, err := db.Begin()
		require.NoError(t, err)
		defer func() { _ = tx.Rollback() }()
		require.NoError(t, do(endstate.SQLiteTx(tx)))
		require.NoError(t, tx.Commit())
	}
	in(func(tx endstate.Tx) error { return outbox.Writer{}.Migrate(ctx, tx) })
	p, err := New(conn, &Config{AckTimeout: 2 * time.Second})
	require.NoError(t, err)
	counted := &countingFailures{Publisher: p}
	rel, err := relay.NewSQL(db, counted, &relay.Config{
		BatchSize: 20, PollInterval: 10 * time.Millisecond, MinBackoff: 50 * time.Millisecond, MaxBackoff: 200 * time.Millisecond,
		Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	var running sync.WaitGroup
	running.Go(func() { _ = rel.Run(ctx) })
	defer running.Wait()
	defer cancel()

	for n := range each {
		events := make([]outbox.Event, aggregates)
		for i := range events {
			events[i] = outbox.Event{AggregateType: "batch", AggregateID: fmt.Sprint(i), Type: "step", Payload: fmt.Append(nil, n)}
		}
		in(func(tx endstate.Tx) error {
			_, err := outbox.Put(ctx, tx, events...)
			return err
		})
		rel.Wake()
		if n == each/2 {
			info := answer(t, func() (*jetstream.StreamInfo, error) { return stream.Info(ctx) })
			require.NotEqual(t, uint64(aggregates*(n+1)), info.State.Msgs, "nothing is left to be published")
			for _, n := range nodes {
				if n.name == info.Cluster.Leader {
					n.kill()
				}
			}
		}
	}
	require.Eventually(t, func() bool {
		info, err := stream.Info(ctx)
		return err == nil && info.State.Msgs >= aggregates*each
	}, 3*time.Minute, 50*time.Millisecond)
	cancel()
	running.Wait()
	require.Positive(t, counted.failures.Load(), "the leader's death hit no call")

	got := answer(t, func() ([]outbox.Event, error) { return stored(t.Context(), js) })
	require.Len(t, got, aggregates*each, "each event once, though calls failed and were repeated")
	seen, next := map[uuid.UUID]bool{}, map[string]int{}
	for _, e := range got {
		require.False(t, seen[e.ID], "an event is in the stream twice")
		seen[e.ID] = true
		require.Equal(t, fmt.Sprint(next[e.AggregateID]), string(e.Payload), "of aggregate %s", e.AggregateID)
		next[e.AggregateID]++
	}
}

// countingFailures counts the events that a publisher's destination didn't take. The relay counts none of an outage's.
type countingFailures struct {
	*Publisher
	failures atomic.Int64
}

func (c *countingFailures) Publish(ctx context.Context, batch []outbox.Event) []error {
	errs := c.Publisher.Publish(ctx, batch)
	for _, err := range errs {
		if err != nil {
			c.failures.Add(1)
		}
	}
	return errs
}
