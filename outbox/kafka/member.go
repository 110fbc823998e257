package kafka

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// member is one Run of a Consumer. The client calls revoked and lost from its own goroutine, but never while records that were
// polled are being handed to the workers.
type member struct {
	*Consumer
	ctx    context.Context
	client *kgo.Client

	mu      sync.Mutex
	workers map[partition]*worker
	giveUp  context.CancelFunc // ends the goodbye to the group, once Run is at that
	running sync.WaitGroup
}

type partition struct {
	topic  string
	number int32
}

func newMember(c *Consumer) *member { return &member{Consumer: c, workers: map[partition]*worker{}} }

// options are the client's. Those that the promise rests on come last.
func (m *member) options() []kgo.Opt {
	return slices.Concat(
		[]kgo.Opt{kgo.ClientID("endstate"), kgo.MetadataMinAge(250 * time.Millisecond), kgo.AutoCommitInterval(time.Second), kgo.ProducerBatchMaxBytes(64 << 20)},
		m.opts,
		[]kgo.Opt{
			kgo.ConsumerGroup(m.cfg.Group), kgo.ConsumeTopics(m.cfg.Topics...),
			kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.AutoCommitMarks(), kgo.AutoCommitCallback(m.committed),
			kgo.BlockRebalanceOnPoll(), kgo.OnPartitionsRevoked(m.revoked), kgo.OnPartitionsLost(m.lost),
			kgo.RequiredAcks(kgo.AllISRAcks()), // of dead letters
		},
	)
}

// hand gives records to their partition's worker.
func (m *member) hand(p partition, records []*kgo.Record) {
	if len(records) == 0 {
		return
	}
	m.mu.Lock()
	w := m.workers[p]
	if w == nil {
		w = newWorker(m, p)
		m.workers[p] = w
		m.running.Go(w.run)
	}
	m.mu.Unlock()
	w.add(records)
}

// revoked lets the workers of partitions that go to other members finish what they are at, and commits. The last one is of all
// partitions, at the end of Run.
func (m *member) revoked(ctx context.Context, client *kgo.Client, partitions map[string][]int32) {
	m.stop(client, partitions, m.cfg.HandOverTimeout)
	m.commit(ctx, client)
	m.hurry()
}

// lost ends the workers of partitions that other members have already. Their offsets can't be committed.
func (m *member) lost(_ context.Context, client *kgo.Client, partitions map[string][]int32) {
	m.stop(client, partitions, 0)
	m.hurry()
}

// hurry bounds the goodbye. It begins when the partitions are handed over: before, that may have to wait for other members' handlers.
func (m *member) hurry() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.giveUp != nil {
		time.AfterFunc(leaveTimeout, m.giveUp)
	}
}

// stop ends the workers of some partitions. Their handlers get so much time before their contexts end.
func (m *member) stop(client *kgo.Client, partitions map[string][]int32, patience time.Duration) {
	m.mu.Lock()
	var stopped []*worker
	for topic, numbers := range partitions {
		for _, number := range numbers {
			p := partition{topic, number}
			if w := m.workers[p]; w != nil {
				stopped = append(stopped, w)
				delete(m.workers, p)
			}
		}
	}
	m.mu.Unlock()
	for _, w := range stopped {
		w.stop(patience)
	}
	for _, w := range stopped {
		<-w.ended
	}
	client.ResumeFetchPartitions(partitions) // of the next time that they are ours
}

// finish ends all workers, at the end of Run. They stay known, so that a rebalance meanwhile waits for them.
func (m *member) finish() {
	m.mu.Lock()
	for _, w := range m.workers {
		w.stop(0)
	}
	m.mu.Unlock()
	m.running.Wait()
}

// commit commits what the inbox is done with. A rebalance calls it: beside one it would wait.
func (m *member) commit(ctx context.Context, client *kgo.Client) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if err := client.CommitMarkedOffsets(ctx); err != nil {
		m.cfg.Logger.Warn("kafka: committing offsets failed; what was handled may be delivered again", "group", m.cfg.Group, "error", err)
	}
}

// commitError is the first error of a commit's partitions.
func commitError(response *kmsg.OffsetCommitResponse) error {
	for _, topic := range response.Topics {
		for _, p := range topic.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("%s/%d: %w", topic.Topic, p.Partition, err)
			}
		}
	}
	return nil
}
