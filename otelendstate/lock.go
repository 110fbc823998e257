package otelendstate

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/endstate-go/endstate/lock"
)

// errPanicked stands for the error of a function that panicked, or ended its goroutine.
var errPanicked = errors.New("otelendstate: the function panicked, or ended its goroutine")

// Lock returns a lock that does what locker does, and tells how long its callers waited and held it: a span for each, and
// metrics, under a name such as "reports". Where nobody listens it is locker itself.
func (t *Telemetry) Lock(name string, locker lock.Locker) lock.Locker {
	if t.silent() || locker == nil {
		return locker
	}
	return &tracedLock{t, name, locker}
}

type tracedLock struct {
	*Telemetry
	name   string
	locker lock.Locker
}

var _ lock.Locker = (*tracedLock)(nil)

func (l *tracedLock) Do(ctx context.Context, key string, fn func(context.Context) error) error {
	return l.around(ctx, key, fn, l.locker.Do)
}

func (l *tracedLock) Try(ctx context.Context, key string, fn func(context.Context) error) error {
	return l.around(ctx, key, fn, l.locker.Try)
}

func (l *tracedLock) around(ctx context.Context, of string, fn func(context.Context) error, acquire func(context.Context, string, func(context.Context) error) error) (err error) {
	began := time.Now()
	var span trace.Span
	if l.tracer != nil {
		ctx, span = l.tracer.Start(ctx, "lock "+l.name, trace.WithAttributes(lockName.String(l.name)))
		if l.cfg.Identifiers {
			span.SetAttributes(key.String(of))
		}
	}
	ran := false
	var held time.Time
	err = errPanicked
	defer func() { l.ended(ctx, span, began, held, ran, err) }()
	return acquire(ctx, of, func(ctx context.Context) error {
		ran, held = true, time.Now()
		if l.measure != nil {
			l.measure.lockWait.record(ctx, held.Sub(began), values{l.name, "acquired"})
		}
		if span != nil {
			span.AddEvent("acquired")
		}
		return fn(ctx)
	})
}

// ended is called when a lock was given back, or could not be had.
func (l *tracedLock) ended(ctx context.Context, span trace.Span, began, held time.Time, ran bool, err error) {
	what := "released"
	switch {
	case ran && errors.Is(err, lock.ErrLost):
		what = "lost"
	case !ran:
		what = kind(err)
	}
	if m := l.measure; m != nil {
		if ran {
			m.lockHold.record(ctx, time.Since(held), values{l.name, what})
		} else {
			m.lockWait.record(ctx, time.Since(began), values{l.name, what})
		}
	}
	if span != nil {
		span.SetAttributes(outcome.String(what))
		if what != "released" {
			l.failed(span, err)
		}
		span.End()
	}
}
