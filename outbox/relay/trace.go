package relay

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/outbox"
)

// Try is one call of Publish, or of a consumer's handler.
type Try struct {
	// Destination is where the events are published: scheme and host; empty if nobody says. A consumer's is "handler".
	Destination string
	// Consumer reports whether a consumer's handler is called, with one event.
	Consumer bool
	// Events are tried at once. They and what they point to are the relay's: a hook must not change or keep them.
	Events []outbox.Event
}

// Trace is a set of callbacks for metrics and traces, each optional, after the manner of net/http/httptrace. They run on
// the relay's goroutine, so that a slow one slows the relay, and one that panics ends Run with that.
type Trace struct {
	// Trying is called before each call of Publish, or of a consumer's handler, which gets the context that it returns: one with
	// a span, for instance.
	Trying func(ctx context.Context, try Try) context.Context
	// Tried is called with that context after the call, with an error for each event, nil for those that were taken; errs is nil
	// if all were. What a consumer's handler did is not committed yet. Took is how long the call took.
	Tried func(ctx context.Context, try Try, errs []error, took time.Duration)
	// Published is called for each event that was published, or handled by a transaction that was committed. Age is the time since
	// the event was put, by the database's clock.
	Published func(ctx context.Context, event outbox.Event, age time.Duration)
	// Failed is called for each event that failed: attempt counts from 1, and wait is the time until the next one, zero if
	// the event is dead now.
	Failed func(ctx context.Context, event outbox.Event, attempt int, err error, wait time.Duration)
	// Dead is called for each event that is given up.
	Dead func(ctx context.Context, event outbox.Event, attempts int, err error)
	// Blocked is called when the destination takes nothing, with the error of one of the events it refused, and again, with
	// nil, when it takes something. Meanwhile events wait, and no attempts are counted.
	Blocked func(ctx context.Context, err error)
	// Owns is called when the number of partitions that the relay owns has changed, also to 0, when its lease ends.
	Owns func(ctx context.Context, partitions int)
	// LeaseTaken is called when the relay has taken a lease, under whose id Stats has it from then on (RelayInfo.ID).
	LeaseTaken func(ctx context.Context, id uuid.UUID)
	// LeaseLost is called when the relay lost its lease: it didn't reach the database, or wasn't running, for LeaseTTL. It
	// takes a new one.
	LeaseLost func(ctx context.Context)
	// Reconnecting is called when the database can't be reached, before the relay tries again after wait.
	Reconnecting func(ctx context.Context, err error, wait time.Duration)
}
