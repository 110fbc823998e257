package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// Publisher hands events to a broker, or to whatever else consumers read from. A Relay calls it.
//
// Implementations MUST be safe for concurrent use by several relays, and MUST keep these rules, which outboxtest.Publisher
// checks:
//   - Publish returns nil if the broker has taken every event for good: what it acknowledged must survive the broker's own
//     restart, as far as the broker is set up to promise that. Otherwise it returns one error for each event, in the order
//     of the batch, nil for those that were taken. A slice of another length counts as a failure of the whole batch.
//   - A repeated event is published with the same id, type, payload bytes and headers as the first time.
//   - Publish returns soon after ctx ends, and leaves no goroutine behind.
//   - The batch and what it points to stay the relay's: they aren't changed, nor kept after the return.
//
// A batch never holds two events of one aggregate, unless the publisher is Ordered, so its events may be sent in any order, or
// at once. An error is tried again later unless it is Permanent. Its text is stored with the event and logged: it should hold
// no payload and no password.
type Publisher interface {
	Publish(ctx context.Context, batch []Event) []error
}

// Ordered is what a Publisher implements that keeps the order of a batch by itself, as a log or a stream does. It gets whole
// batches, with several events of one aggregate in their order. It MUST NOT take an event after it has refused an earlier one
// of the same aggregate in the same batch: it returns an error for the later one too.
type Ordered interface {
	Publisher
	KeepsOrder() bool
}

// Addressed is what a Publisher implements that can say where it publishes, such as "https://partner.example" or
// "nats://broker:4222": scheme and host. What else there is in a URL, credentials above all, a relay leaves out.
type Addressed interface {
	Destination() string
}

// PublisherFunc is a Publisher that is called with one event after the other.
type PublisherFunc func(ctx context.Context, event Event) error

var _ Publisher = PublisherFunc(nil)

// Publish implements Publisher.
func (f PublisherFunc) Publish(ctx context.Context, batch []Event) []error {
	var errs []error
	for i, event := range batch {
		if err := f(ctx, event); err != nil {
			if errs == nil {
				errs = make([]error, len(batch))
			}
			errs[i] = err
		}
	}
	return errs
}

// Channel is a Publisher for consumers in the same process. An event counts as published once it was received from the
// channel (or stands in its buffer, which a crash loses): for consumers that must not miss any, an unbuffered channel and a
// consumer that has finished its work before it receives again, or a broker.
type Channel chan<- Event

var _ Publisher = Channel(nil)

// Publish implements Publisher.
func (c Channel) Publish(ctx context.Context, batch []Event) []error {
	return PublisherFunc(func(ctx context.Context, event Event) error {
		event.Payload, event.Headers = bytes.Clone(event.Payload), maps.Clone(event.Headers) // the consumer keeps it
		select {
		case c <- event:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}).Publish(ctx, batch)
}

// ErrPermanent is in the chain of every error that Permanent returned.
var ErrPermanent = errors.New("outbox: permanent failure")

// Permanent marks an error of a Publisher as one that no repetition fixes, such as an event the broker refuses for its size:
// the event becomes a dead letter at once. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrPermanent, err)
}

// RetryAfter marks an error of a Publisher as one before whose repetition the receiver asked for a pause, as HTTP's
// Retry-After does. The relay slows down as a whole, to what the receiver takes; it counts no attempt as long as
// nothing else is taken. RetryAfter(nil, d) is nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &retryAfterError{err, d}
}

type retryAfterError struct {
	error
	after time.Duration
}

func (e *retryAfterError) Unwrap() error { return e.error }

// RetryAfter is how a relay finds the pause.
func (e *retryAfterError) RetryAfter() time.Duration { return e.after }
