package outboxtest

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/endstate-go/endstate/outbox"
)

// patience is how long something that has to happen may take.
const patience = 10 * time.Second

// Recorder is a publisher that keeps what it is given. The zero Recorder is ready, and takes everything. It is safe for
// concurrent use.
type Recorder struct {
	mu     sync.Mutex
	answer outbox.PublisherFunc
	events []outbox.Event
	more   chan struct{} // closed when an event is added
}

var _ outbox.Publisher = (*Recorder)(nil)

// Answer has f say what becomes of each event from now on: the events for which it returns an error aren't taken. It may
// also block, until ctx ends, or panic. Nil takes everything again.
func (r *Recorder) Answer(f outbox.PublisherFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// Publish implements outbox.Publisher.
func (r *Recorder) Publish(ctx context.Context, batch []outbox.Event) []error {
	return outbox.PublisherFunc(r.take).Publish(ctx, batch)
}

func (r *Recorder) take(ctx context.Context, e outbox.Event) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.mu.Lock()
	answer := r.answer
	r.mu.Unlock()
	if answer != nil {
		if err := answer(ctx, e); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, clone(e))
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
	return nil
}

// Events returns the events that were taken so far, in their order.
func (r *Recorder) Events() []outbox.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// Wait waits until at least n events were taken, and returns all that were. If that takes longer than ten seconds it ends
// the test.
func (r *Recorder) Wait(t testing.TB, n int) []outbox.Event {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		r.mu.Lock()
		events := slices.Clone(r.events)
		if r.more == nil {
			r.more = make(chan struct{})
		}
		more := r.more
		r.mu.Unlock()
		if len(events) >= n {
			return events
		}
		select {
		case <-more:
		case <-timeout.C:
			t.Fatalf("outboxtest: waited %v for %d events, and there are %d:\n%s", patience, n, len(events), table(events, nil))
		}
	}
}

// clone is a copy of e that shares nothing with it.
func clone(e outbox.Event) outbox.Event {
	e.Payload = bytes.Clone(e.Payload)
	e.Headers = maps.Clone(e.Headers)
	return e
}
