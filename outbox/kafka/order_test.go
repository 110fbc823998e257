package kafka

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/migrations"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// ofAggregates makes n events of each of several aggregates, in turns.
func ofAggregates(n int, aggregates ...string) (all []outbox.Event) {
	for i := range n {
		for _, a := range aggregates {
			all = append(all, event(a, i))
		}
	}
	return all
}

// A batch has an event in its middle that the client, or the cluster, or CloudEvents refuses: what comes after it of its aggregate
// isn't taken, and nobody else's event is refused, though it is in the same partition and request.
func TestNothingOfAnAggregateIsTakenAfterARefusal(t *testing.T) {
	t.Parallel()
	random := make([]byte, 45_000)
	_, _ = rand.Read(random)
	long := fmt.Appendf(nil, "%q", base64.StdEncoding.EncodeToString(random)) // 60 kB, which can't be compressed to much less
	for name, tt := range map[string]struct {
		cfg   Config
		spoil func(*outbox.Event)
	}{
		"by the client":   {Config{MaxBatchBytes: 50_000}, func(e *outbox.Event) { e.Payload = long }},
		"by a broker":     {Config{MaxBatchBytes: 500_000}, func(e *outbox.Event) { e.Payload = long }},
		"for its headers": {Config{MaxBatchBytes: 50_000}, func(e *outbox.Event) { e.Headers = map[string]string{"x": string(long)} }},
		"as no event":     {Config{}, func(e *outbox.Event) { e.Type = "a\x00b" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, kfake.SeedTopics(1, DefaultTopic), kfake.BrokerConfigs(map[string]string{"message.max.bytes": "52000"}))
			p := c.publisher(&tt.cfg)
			batch := ofAggregates(5, "a", "b", "c")
			bad := 2*3 + 1 // b's third
			tt.spoil(&batch[bad])
			errs := p.Publish(t.Context(), batch)
			require.Len(t, errs, len(batch))
			for i, err := range errs {
				switch {
				case i == bad:
					require.ErrorIs(t, err, outbox.ErrPermanent)
				case batch[i].AggregateID == "b" && i > bad:
					require.ErrorIs(t, err, errEarlierRefused)
					require.NotErrorIs(t, err, outbox.ErrPermanent)
				default:
					require.NoError(t, err)
				}
			}
			got := c.mustStored(DefaultTopic)
			require.Equal(t, upTo(5), numbers(got, "a"))
			require.Equal(t, upTo(2), numbers(got, "b"))
			require.Equal(t, upTo(5), numbers(got, "c"))
		})
	}
}

// An aggregate's events go to several topics, one of which isn't there.
func TestAnAggregateOfSeveralTopicsKeepsItsOrder(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(3, "first", "third"))
	p := c.publisher(&Config{Topic: "{type}", AckTimeout: time.Minute})
	batch := []outbox.Event{event("a", 0), event("b", 0), event("a", 1), event("b", 1), event("a", 2), event("b", 2)}
	for i, topic := range []string{"first", "first", "second", "third", "third", "first"} {
		batch[i].Type = topic
	}
	errs := p.Publish(t.Context(), batch)
	require.Len(t, errs, len(batch))
	require.NoError(t, errors.Join(errs[0], errs[1], errs[3], errs[5]))
	require.ErrorIs(t, errs[2], kerr.UnknownTopicOrPartition)
	require.NotErrorIs(t, errs[2], outbox.ErrPermanent, "it may be created")
	require.ErrorIs(t, errs[4], errEarlierRefused)
	require.Equal(t, upTo(1), numbers(c.mustStored("first", "third"), "a"))
	require.NoError(t, c.CreateTopic("second", 3, nil))
	require.Empty(t, p.Publish(t.Context(), []outbox.Event{batch[2], batch[4]}))
	require.Equal(t, upTo(3), numbers(c.mustStored("first", "second", "third"), "a"))
}

// A relay hands over whole batches. One of them fails in its middle, as no repetition fixes, and another as a whole for a while.
func TestARelayKeepsTheOrder(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(2, DefaultTopic))
	db := newSQLite(t)
	require.NoError(t, migrations.ApplySQL(t.Context(), db, ""))
	const each = 100
	batch := ofAggregates(each, "a", "b", "c", "d")
	poison := 50*4 + 1 // b's, which is larger than the client may send
	batch[poison].Payload = fmt.Appendf(nil, `"%050000d"`, 0)
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = outbox.Writer{}.Put(t.Context(), endstate.SQLiteTx(tx), batch...)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())

	refused := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: DefaultTopic, Partitions: []int32{0, 1}, Err: kerr.TopicAuthorizationFailed, Count: 4})
	largest := 0
	publisher := &counting{Publisher: c.publisher(&Config{MaxBatchBytes: 40_000}), size: func(n int) { largest = max(largest, n) }}
	r, err := relay.NewSQL(db, publisher, &relay.Config{BatchSize: 150, MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond, PollInterval: 10 * time.Millisecond, Logger: silent})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	admin, err := relay.NewAdminSQL(db, nil)
	require.NoError(t, err)
	eventually(t, "all but one are published", func() bool {
		stats, err := admin.Stats(t.Context())
		return err == nil && len(stats) == 1 && stats[0].Pending == 0 && stats[0].Dead == 1
	})
	cancel()
	running.Wait()
	require.Equal(t, 4, refused.Hits(), "the fault fired")
	require.Greater(t, largest, 20, "whole batches, with several events of an aggregate")
	got := c.mustStored(DefaultTopic)
	for _, a := range []string{"a", "c", "d"} {
		require.Equal(t, upTo(each), numbers(got, a))
	}
	require.Equal(t, append(upTo(50), upTo(each)[51:]...), numbers(got, "b"))
}

// counting is an Ordered publisher that notes the batches' sizes.
type counting struct {
	*Publisher
	size func(int)
}

func (c *counting) Publish(ctx context.Context, batch []outbox.Event) []error {
	c.size(len(batch))
	return c.Publisher.Publish(ctx, batch)
}
