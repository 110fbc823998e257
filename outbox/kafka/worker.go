package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/endstate-go/endstate/outbox/inbox"
)

// worker handles the records of one partition, one after the other.
type worker struct {
	*member
	partition partition
	ctx       context.Context // of the handlers
	cancel    context.CancelFunc
	stopped   sync.Once
	stopping  chan struct{} // closed by stop
	ended     chan struct{} // closed by run

	mu     sync.Mutex
	queue  []*kgo.Record
	paused bool
	more   chan struct{} // has room for one
}

// A partition isn't read on while so many of its records wait, until so few do.
const (
	manyQueued = 2 * pollRecords
	fewQueued  = pollRecords / 2
)

func newWorker(m *member, p partition) *worker {
	w := &worker{member: m, partition: p, stopping: make(chan struct{}), ended: make(chan struct{}), more: make(chan struct{}, 1)}
	w.ctx, w.cancel = context.WithCancel(m.ctx)
	return w
}

func (w *worker) add(records []*kgo.Record) {
	w.mu.Lock()
	w.queue = append(w.queue, records...)
	pause := len(w.queue) >= manyQueued && !w.paused
	w.paused = w.paused || pause
	w.mu.Unlock()
	if pause {
		w.client.PauseFetchPartitions(map[string][]int32{w.partition.topic: {w.partition.number}})
	}
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// take returns the next record, or nil when the worker is to stop.
func (w *worker) take() *kgo.Record {
	for {
		select {
		case <-w.stopping:
			return nil
		default:
		}
		w.mu.Lock()
		var next *kgo.Record
		if len(w.queue) > 0 {
			next, w.queue[0] = w.queue[0], nil
			w.queue = w.queue[1:]
		}
		resume := w.paused && len(w.queue) <= fewQueued
		if resume {
			w.paused = false
		}
		w.mu.Unlock()
		if resume {
			w.client.ResumeFetchPartitions(map[string][]int32{w.partition.topic: {w.partition.number}})
		}
		if next != nil {
			return next
		}
		select {
		case <-w.more:
		case <-w.stopping:
		case <-w.ctx.Done():
			return nil
		}
	}
}

// stop has the worker take no more records, and ends its handler's context after a while. It doesn't wait. Only the first call counts.
func (w *worker) stop(patience time.Duration) {
	w.stopped.Do(func() {
		close(w.stopping)
		time.AfterFunc(patience, w.cancel)
	})
}

func (w *worker) run() {
	defer close(w.ended)
	defer w.cancel()
	for r := w.take(); r != nil; r = w.take() {
		if !w.settle(r) {
			return
		}
		w.client.MarkCommitRecords(r)
	}
}

// settle handles a record until the inbox, or the topic of dead letters, is done with it. It reports false if the worker is to
// stop before that.
func (w *worker) settle(r *kgo.Record) bool {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = w.cfg.RetryAfter/100, w.cfg.RetryAfter
	for attempt := 1; ; attempt++ {
		err := w.once(r)
		if err == nil {
			return true
		}
		if w.ctx.Err() != nil {
			return false
		}
		attrs := []any{"group", w.cfg.Group, "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "attempt", attempt}
		given := errors.Is(err, ErrNotEvent) || inbox.Permanent(err) || attempt >= w.cfg.MaxAttempts
		switch {
		case given && w.cfg.DeadLetters != "":
			buried := w.bury(r, err)
			if buried == nil {
				w.cfg.Logger.Error("kafka: record became a dead letter", append(attrs, "dead_letters", w.cfg.DeadLetters, "error", err)...)
				return true
			}
			if w.ctx.Err() != nil {
				return false // the partition goes to another member, which buries it
			}
			w.cfg.Logger.Error("kafka: record is held, and its partition waits: it could not be kept as a dead letter", append(attrs, "dead_letters", w.cfg.DeadLetters, "reason", buried, "error", err)...)
		case given:
			w.cfg.Logger.Error("kafka: record is held, and its partition waits", append(attrs, "error", err)...)
		default:
			w.cfg.Logger.Warn("kafka: delivery failed, and will be repeated", append(attrs, "error", err)...)
		}
		timer := time.NewTimer(pause.NextBackOff())
		select {
		case <-timer.C:
		case <-w.stopping:
			timer.Stop()
			return false
		case <-w.ctx.Done():
			timer.Stop()
			return false
		}
	}
}

func (w *worker) once(r *kgo.Record) error {
	event, err := Decode(r.Headers, r.Value)
	if err != nil {
		return err
	}
	_, err = w.handle(w.ctx, event)
	return err
}

// The headers that a dead letter has beside the record's own.
const (
	HeaderDeadTopic     = "dead_topic"     // the record's topic
	HeaderDeadPartition = "dead_partition" // its partition
	HeaderDeadOffset    = "dead_offset"    // and its offset there: the three name a record that is buried twice
	HeaderDeadGroup     = "dead_group"     // the group that gave it up
	HeaderDeadError     = "dead_error"     // why, at most 1,000 bytes of it
)

// maxError is how much of an error's text is kept, in bytes.
const maxError = 1000

// buryTimeout bounds the answer to a dead letter.
const buryTimeout = 30 * time.Second

// bury keeps a record as a dead letter: as it is, with the reason in further headers.
func (w *worker) bury(r *kgo.Record, cause error) error {
	ctx, cancel := context.WithTimeout(w.ctx, buryTimeout)
	defer cancel()
	text := cause.Error()
	letter := &kgo.Record{Topic: w.cfg.DeadLetters, Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		switch h.Key {
		case HeaderDeadTopic, HeaderDeadPartition, HeaderDeadOffset, HeaderDeadGroup, HeaderDeadError: // of an earlier death
		default:
			letter.Headers = append(letter.Headers, h)
		}
	}
	for _, h := range [][2]string{
		{HeaderDeadTopic, r.Topic}, {HeaderDeadPartition, fmt.Sprint(r.Partition)}, {HeaderDeadOffset, fmt.Sprint(r.Offset)},
		{HeaderDeadGroup, w.cfg.Group}, {HeaderDeadError, strings.ToValidUTF8(text[:min(len(text), maxError)], "")},
	} {
		letter.Headers = append(letter.Headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
	}
	done := make(chan error, 1)
	w.client.Produce(ctx, letter, func(_ *kgo.Record, err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx) // it may arrive all the same, and again
	}
}
