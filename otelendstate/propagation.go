package otelendstate

import (
	"context"
	"maps"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/endstate-go/endstate/outbox"
)

// Headers is an outbox.Writer's Headers: it writes the trace context of a finalization, or of a Put, into its events, with which
// it goes to their consumers. It is nil where there are no spans.
func (t *Telemetry) Headers() func(context.Context) map[string]string {
	if t.tracer == nil {
		return nil
	}
	return func(ctx context.Context) map[string]string {
		if !trace.SpanContextFromContext(ctx).IsValid() {
			return nil
		}
		carried := headers{}
		t.propagator.Inject(ctx, carried)
		return carried
	}
}

// origin is the trace context that an event carries, invalid if it carries none.
func (t *Telemetry) origin(event *outbox.Event) trace.SpanContext {
	if len(event.Headers) == 0 {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(t.propagator.Extract(context.Background(), headers(event.Headers)))
}

// under returns ctx with an event's trace context as the parent of what begins in it, and a link to the span that ctx had. Where the event carries
// none, the parent is that of ctx.
func (t *Telemetry) under(ctx context.Context, event *outbox.Event) (context.Context, []trace.SpanStartOption) {
	origin := t.origin(event)
	if !origin.IsValid() {
		return ctx, nil
	}
	var opts []trace.SpanStartOption
	if here := trace.SpanContextFromContext(ctx); here.IsValid() && here.TraceID() != origin.TraceID() {
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: here}))
	}
	return trace.ContextWithRemoteSpanContext(ctx, origin), opts
}

// headers are an event's, whose names brokers and HTTP don't tell by their case.
type headers map[string]string

var _ propagation.TextMapCarrier = headers(nil)

func (h headers) Get(name string) string {
	if value, found := h[name]; found {
		return value
	}
	for other, value := range h {
		if strings.EqualFold(other, name) {
			return value
		}
	}
	return ""
}

func (h headers) Set(name, value string) { h[name] = value }

func (h headers) Keys() []string { return slices.Collect(maps.Keys(h)) }
