package kafka

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// Why no broker could be reached is said until one is; that a broker hangs up, as it does after a refusal, doesn't hide it.
func TestTheReasonOfAFailedConnectionIsKept(t *testing.T) {
	t.Parallel()
	p, err := New(nil, kgo.SeedBrokers("127.0.0.1:1"))
	require.NoError(t, err)
	defer p.Close()
	connected := func(err error) { connections{p}.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, err) }
	require.Equal(t, errLost, p.explain(errLost))
	connected(io.EOF)
	require.ErrorContains(t, p.explain(errLost), "EOF", "rather than nothing")
	connected(errors.New("a wrong password"))
	connected(io.EOF)
	require.ErrorContains(t, p.explain(errLost), "a wrong password")
	connected(nil)
	require.Equal(t, errLost, p.explain(errLost), "that is over")
}

// idle is a worker whose client reaches nobody.
func idle(t *testing.T, handle inbox.Handler, configure func(*ConsumerConfig)) (*member, *worker) {
	t.Helper()
	cfg := &ConsumerConfig{Group: "results", Logger: silent}
	configure(cfg)
	c, err := NewConsumer(handle, cfg, kgo.SeedBrokers("127.0.0.1:1"))
	require.NoError(t, err)
	m := newMember(c)
	m.ctx = t.Context()
	m.client, err = kgo.NewClient(kgo.SeedBrokers("127.0.0.1:1"))
	require.NoError(t, err)
	t.Cleanup(m.client.Close)
	p := partition{DefaultTopic, 3}
	w := newWorker(m, p)
	m.workers[p] = w
	return m, w
}

// A partition isn't fetched while too many of its records wait, until few do; nor is it left so when it goes to another member, and
// comes back.
func TestAPartitionIsPausedAndResumed(t *testing.T) {
	t.Parallel()
	m, w := idle(t, func(ctx context.Context, _ outbox.Event) (inbox.Result, error) { return inbox.Result{}, ctx.Err() }, func(*ConsumerConfig) {})
	paused := func() bool { return len(m.client.PauseFetchPartitions(nil)[DefaultTopic]) > 0 }
	fill := func(n int) {
		for range n {
			w.add([]*kgo.Record{{Topic: DefaultTopic}})
		}
	}
	fill(manyQueued - 1)
	require.False(t, paused())
	fill(1)
	require.True(t, paused())
	for range manyQueued - fewQueued - 1 {
		require.NotNil(t, w.take())
		require.True(t, paused())
	}
	w.take()
	require.False(t, paused(), "few are left")
	fill(manyQueued)
	require.True(t, paused())
	close(w.ended) // as if it had run
	m.stop(m.client, map[string][]int32{DefaultTopic: {3}}, 0)
	require.False(t, paused())
}

// A worker that waits to try a record again doesn't hold up a rebalance.
func TestAPauseEndsWhenThePartitionGoes(t *testing.T) {
	t.Parallel()
	log := &recorded{}
	m, w := idle(t, func(context.Context, outbox.Event) (inbox.Result, error) {
		return inbox.Result{}, errors.New("not now")
	},
		func(c *ConsumerConfig) { c.RetryAfter, c.Logger = 1000*time.Hour, log.logger() })
	e, err := record(event("7", 0), DefaultTopic, "s")
	require.NoError(t, err)
	w.add([]*kgo.Record{e})
	m.running.Go(w.run)
	eventually(t, "it failed once", func() bool { return log.has("delivery failed, and will be repeated") })
	w.stop(time.Hour)
	select {
	case <-w.ended:
	case <-time.After(time.Minute):
		require.Fail(t, "it waits on")
	}
	m.running.Wait()
}

// A partition that goes while its record is being buried is not one that waits.
func TestABurialEndsWhenThePartitionGoes(t *testing.T) {
	t.Parallel()
	log := &recorded{}
	m, w := idle(t, func(context.Context, outbox.Event) (inbox.Result, error) { return inbox.Result{}, ErrNotEvent },
		func(c *ConsumerConfig) { c.DeadLetters, c.Logger = "dead", log.logger() })
	e, err := record(event("7", 0), DefaultTopic, "s")
	require.NoError(t, err)
	w.add([]*kgo.Record{e})
	m.running.Go(w.run)
	eventually(t, "the letter is on its way", func() bool { return m.client.BufferedProduceRecords() > 0 })
	w.stop(0)
	m.running.Wait()
	require.False(t, log.has("record is held"))
}

// F40: a handler whose partition is to go to another member keeps its context while it finishes, and the member waits for it; one
// whose partition another member has already is ended.
func TestAHandlersContextWhenItsPartitionGoes(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]bool{"revoked": false, "lost": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inside, finish := make(chan context.Context, 1), make(chan struct{})
			m, w := idle(t, func(ctx context.Context, _ outbox.Event) (inbox.Result, error) {
				inside <- ctx
				select {
				case <-finish:
				case <-ctx.Done():
				}
				return inbox.Result{}, ctx.Err()
			}, func(c *ConsumerConfig) { c.HandOverTimeout = time.Hour })
			e, err := record(event("7", 0), DefaultTopic, "s")
			require.NoError(t, err)
			w.add([]*kgo.Record{e})
			m.running.Go(w.run)
			ctx, gone := <-inside, make(chan struct{})
			partitions := map[string][]int32{w.partition.topic: {w.partition.number}}
			go func() {
				defer close(gone)
				if lost {
					m.lost(context.Background(), m.client, partitions)
				} else {
					m.revoked(context.Background(), m.client, partitions)
				}
			}()
			if <-w.stopping; !lost {
				select {
				case <-ctx.Done():
					require.Fail(t, "its context ended")
				case <-gone:
					require.Fail(t, "nobody waits for it")
				case <-time.After(50 * time.Millisecond): // in which nothing happens, however long it takes
				}
				close(finish)
			}
			select {
			case <-gone:
			case <-time.After(time.Minute):
				require.Fail(t, "it isn't ended")
			}
			m.running.Wait()
		})
	}
}

// What the consumer's promises rest on can't be changed by a service's options.
func TestTheConsumersOwnOptions(t *testing.T) {
	t.Parallel()
	c, err := NewConsumer(func(context.Context, outbox.Event) (inbox.Result, error) { return inbox.Result{}, nil }, &ConsumerConfig{Group: "results"},
		kgo.FetchIsolationLevel(kgo.ReadUncommitted()), kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite(), kgo.ConsumerGroup("another"))
	require.NoError(t, err)
	client, err := kgo.NewClient(newMember(c).options()...)
	require.NoError(t, err)
	defer client.CloseAllowingRebalance()
	require.Equal(t, true, client.OptValue(kgo.BlockRebalanceOnPoll), "else a partition goes while its records are handed to a worker")
	require.Equal(t, true, client.OptValue(kgo.AutoCommitMarks))
	require.Equal(t, int8(1), client.OptValue(kgo.FetchIsolationLevel), "what is committed, alone")
	require.Equal(t, kgo.AllISRAcks(), client.OptValue(kgo.RequiredAcks), "of dead letters")
	require.Equal(t, "results", client.OptValue(kgo.ConsumerGroup))
}

// What a transaction wrote that was aborted isn't there for a consumer.
func TestAbortedTransactionsAreNotRead(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
	client, err := kgo.NewClient(append(c.seeds(), kgo.TransactionalID("another producer"))...)
	require.NoError(t, err)
	defer client.Close()
	aborted := event("a", 0)
	r, err := record(aborted, DefaultTopic, "s")
	require.NoError(t, err)
	require.NoError(t, client.BeginTransaction())
	require.NoError(t, client.ProduceSync(t.Context(), r).FirstErr())
	require.NoError(t, client.EndTransaction(t.Context(), kgo.TryAbort))
	c.publish([]outbox.Event{event("a", 1)})
	var s sink
	c.running(s.handle)
	eventually(t, "the other one is handled", func() bool { return len(s.handled()) > 0 })
	require.Equal(t, []int{1}, numbers(s.handled(), "a"))
}

// A commit that the coordinator refuses is logged: what was handled may be delivered again.
func TestARefusedCommitIsLogged(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
	refused := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Topic: DefaultTopic, Err: kerr.TopicAuthorizationFailed, Count: 2})
	c.publish(ofAggregates(3, "a"))
	var s sink
	log := &recorded{}
	c.running(s.handle, func(cfg *ConsumerConfig) { cfg.Logger = log.logger() })
	eventually(t, "it is logged", func() bool { return log.has("committing offsets failed") && log.has("TOPIC_AUTHORIZATION_FAILED") })
	require.Positive(t, refused.Hits(), "the fault fired")
	require.Equal(t, upTo(3), numbers(s.handled(), "a"))
}

// A broker that has lost records is an error, and any other failure of reading a warning.
func TestLostRecordsAreLogged(t *testing.T) {
	t.Parallel()
	log := &recorded{}
	m, _ := idle(t, func(context.Context, outbox.Event) (inbox.Result, error) { return inbox.Result{}, nil }, func(c *ConsumerConfig) { c.Logger = log.logger() })
	m.report(DefaultTopic, 3, kerr.NotLeaderForPartition)
	require.True(t, log.has("level=WARN"))
	require.False(t, log.has("level=ERROR"))
	m.report(DefaultTopic, 3, &kgo.ErrDataLoss{Topic: DefaultTopic, Partition: 3, ConsumedTo: 9, ResetTo: 5})
	require.True(t, log.has("level=ERROR"))
	require.True(t, log.has("a broker has lost records"))
}

// A dead letter may be as large as its record was, and of an error's text it has no more than fits, cut between two characters.
func TestALargeRecordBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic, "dead"), kfake.BrokerConfigs(map[string]string{"message.max.bytes": "8000000"}))
	e := event("a", 0)
	e.Payload, e.ContentType = make([]byte, 3_000_000), "application/octet-stream"
	_, _ = rand.Read(e.Payload) // which can't be compressed
	require.NoError(t, errors.Join(c.publisher(&Config{MaxBatchBytes: 4_000_000, AckTimeout: time.Minute}).Publish(t.Context(), []outbox.Event{e})...))
	c.running(func(context.Context, outbox.Event) (inbox.Result, error) {
		return inbox.Result{}, outbox.Permanent(errors.New(strings.Repeat("é", 1000)))
	}, func(cfg *ConsumerConfig) { cfg.DeadLetters = "dead" })
	c.eventuallyCommitted(1)
	letters, err := c.records(t.Context(), "dead")
	require.NoError(t, err)
	require.Len(t, letters, 1)
	require.Equal(t, e.Payload, letters[0].Value)
	for _, h := range letters[0].Headers {
		if h.Key == HeaderDeadError {
			require.LessOrEqual(t, len(h.Value), maxError)
			require.Greater(t, len(h.Value), maxError-utf8.UTFMax)
			require.True(t, utf8.Valid(h.Value))
		}
	}
}

// An event without a payload is no tombstone, which a compacted topic would take for the end of its aggregate.
func TestAnEmptyPayloadIsNoTombstone(t *testing.T) {
	t.Parallel()
	e := event("a", 0)
	e.Payload = nil
	r, err := record(e, DefaultTopic, "s")
	require.NoError(t, err)
	require.NotNil(t, r.Value)
}
