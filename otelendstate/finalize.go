package otelendstate

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/endstate-go/endstate/finalize"
)

// The outcomes of a call, beside those that are named as its error is: busy, in_progress, conflict, unknown, lock_unavailable.
const (
	won      = "won"
	lost     = "lost"
	differs  = "differs"   // lost, and wanted something else: Receipt.Differs
	cached   = "cached"    // lost, and answered from memory, or by another call of this process
	notReady = "not_ready" // the callback returned ErrNotReady
	failed   = "failed"    // every other error
)

type (
	callKey struct{} // the span of a call of a finalizer
	workKey struct{} // that of its callback
)

// Finalize returns hooks for finalize.Config.Trace, for any number of finalizers: a span for each call, within that of whoever
// called, one for each run of its callback, and metrics. Hooks of your own go around them; where nobody listens there are none.
func (t *Telemetry) Finalize() *finalize.Trace {
	if t.silent() {
		return &finalize.Trace{}
	}
	trace := &finalize.Trace{
		Won: func(ctx context.Context, c finalize.Call, r finalize.Receipt) { t.ended(ctx, c, won, r, nil) },
		Lost: func(ctx context.Context, c finalize.Call, r finalize.Receipt) {
			switch {
			case r.Differs:
				t.ended(ctx, c, differs, r, nil)
			case c.Attempt == 0:
				t.ended(ctx, c, cached, r, nil)
			default:
				t.ended(ctx, c, lost, r, nil)
			}
		},
		NotReady: func(ctx context.Context, c finalize.Call) { t.ended(ctx, c, notReady, finalize.Receipt{}, nil) },
		Failed: func(ctx context.Context, c finalize.Call, err error) {
			what := failed
			switch name := kind(err); name {
			case "busy", "in_progress", "conflict", "unknown", "lock_unavailable":
				what = name
			}
			t.ended(ctx, c, what, finalize.Receipt{}, err)
		},
		Retry: func(ctx context.Context, c finalize.Call, cause error, wait time.Duration) {
			t.noted(ctx, "transaction broken off", cause, attempts.Int(c.Attempt), attribute.Float64("endstate.wait", wait.Seconds()))
			if m := t.measure; m != nil {
				m.retries.add(ctx, 1, values{c.Ref.Aggregate, named(c.Trigger), kind(cause)})
			}
		},
		Resolving: func(ctx context.Context, c finalize.Call, cause error) {
			t.noted(ctx, "commit without an answer", cause, attempts.Int(c.Attempt))
			if m := t.measure; m != nil {
				m.unanswered.add(ctx, 1, values{c.Ref.Aggregate, named(c.Trigger), kind(cause)})
			}
		},
		LockUnavailable: func(ctx context.Context, c finalize.Call, err error) { t.lockFailed(ctx, c, "unavailable", err) },
		LockLost:        func(ctx context.Context, c finalize.Call, err error) { t.lockFailed(ctx, c, "lost", err) },
	}
	if t.tracer != nil {
		trace.Began, trace.Running, trace.Ran = t.began, t.running, t.ran
	}
	if m := t.measure; m != nil {
		trace.Hot = func(ctx context.Context, k finalize.HotKey) { m.hot.add(ctx, 1, values{k.Ref.Aggregate}) }
		trace.Swept = func(ctx context.Context, s finalize.Swept) {
			m.sweepDuration.record(ctx, s.Elapsed, values{kind(s.Err)})
		}
	}
	return trace
}

func (t *Telemetry) began(ctx context.Context, c finalize.Call) context.Context {
	attrs := []attribute.KeyValue{aggregate.String(c.Ref.Aggregate), trigger.String(named(c.Trigger))}
	if t.cfg.Identifiers {
		attrs = append(attrs, key.String(c.Ref.Key.String()))
		if c.Ref.Tenant != "" {
			attrs = append(attrs, tenant.String(c.Ref.Tenant))
		}
	}
	ctx, span := t.tracer.Start(ctx, "finalize "+c.Ref.Aggregate, trace.WithAttributes(attrs...))
	return context.WithValue(ctx, callKey{}, span)
}

func (t *Telemetry) running(ctx context.Context, c finalize.Call) context.Context {
	name := "work "
	if c.Attempt == 0 {
		name = "prepare "
	}
	ctx, span := t.tracer.Start(ctx, name+c.Ref.Aggregate)
	return context.WithValue(ctx, workKey{}, span)
}

func (t *Telemetry) ran(ctx context.Context, _ finalize.Call, err error) {
	span, ok := ctx.Value(workKey{}).(trace.Span)
	if !ok {
		return
	}
	if err != nil && !errors.Is(err, finalize.ErrNotReady) {
		t.failed(span, err)
	}
	span.End()
}

// ended is called with what became of a call.
func (t *Telemetry) ended(ctx context.Context, c finalize.Call, what string, r finalize.Receipt, err error) {
	if m := t.measure; m != nil {
		v := values{c.Ref.Aggregate, named(c.Trigger), what, kind(err)}
		m.calls.add(ctx, 1, v)
		if c.Attempt > 0 {
			m.callDuration.record(ctx, c.Elapsed, v)
		}
	}
	span, ok := ctx.Value(callKey{}).(trace.Span)
	if !ok {
		return
	}
	if span.IsRecording() {
		span.SetAttributes(outcome.String(what), attempts.Int(c.Attempt))
		if r.State != "" {
			span.SetAttributes(state.String(r.State))
		}
		if r.Trigger != "" {
			span.SetAttributes(winner.String(named(r.Trigger)))
		}
		if err != nil {
			t.failed(span, err)
		}
	}
	span.End()
}

// noted adds an event to the span of a call.
func (t *Telemetry) noted(ctx context.Context, what string, cause error, attrs ...attribute.KeyValue) {
	span, ok := ctx.Value(callKey{}).(trace.Span)
	if !ok || !span.IsRecording() {
		return
	}
	attrs = append(attrs, errorType.String(kind(cause)))
	if code := stateOf(cause); code != "" {
		attrs = append(attrs, sqlState.String(code))
	}
	span.AddEvent(what, trace.WithAttributes(attrs...))
}

func (t *Telemetry) lockFailed(ctx context.Context, c finalize.Call, what string, err error) {
	t.noted(ctx, "lock "+what, err)
	if m := t.measure; m != nil {
		m.lockFailures.add(ctx, 1, values{c.Ref.Aggregate, named(c.Trigger), what})
	}
}
