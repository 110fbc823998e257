package relay

import (
	"context"
	"time"

	"github.com/endstate-go/endstate/outbox"
)

// Trace is a set of callbacks for metrics and traces, each optional, after the manner of net/http/httptrace. They run on
// the relay's goroutine, so that a slow one slows the relay.
type Trace struct {
	// Published is called after a batch: how many of its events were published, and how long Publish took.
	Published func(ctx context.Context, events int, took time.Duration)
	// Failed is called for each event that failed: attempt counts from 1, and wait is the time until the next one, zero if
	// the event is dead now.
	Failed func(ctx context.Context, event outbox.Event, attempt int, err error, wait time.Duration)
	// Dead is called for each event that is given up.
	Dead func(ctx context.Context, event outbox.Event, attempts int, err error)
	// Blocked is called when the destination takes nothing, with the error of one of the events it refused, and again, with
	// nil, when it takes something. Meanwhile events wait, and no attempts are counted.
	Blocked func(ctx context.Context, err error)
	// Owns is called when the number of partitions that the relay owns has changed.
	Owns func(ctx context.Context, partitions int)
	// LeaseLost is called when the relay lost its lease: it didn't reach the database, or wasn't running, for LeaseTTL. It
	// takes a new one.
	LeaseLost func(ctx context.Context)
	// Reconnecting is called when the database can't be reached, before the relay tries again after wait.
	Reconnecting func(ctx context.Context, err error, wait time.Duration)
}
