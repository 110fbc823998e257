package otelendstate

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// Consumer names a consumer, for its spans and metrics.
type Consumer struct {
	// Name is the consumer's, such as that of inbox.TableConfig.Consumer.
	Name string
	// System is where its events come from: "kafka", "nats", "redis", "webhook", "rabbitmq".
	System string
	// Destination is the stream, topic or path that they stand in, where that is worth telling apart.
	Destination string
}

// Handler returns a handler that does what handle does, in a span of the trace that the event carries, so that one trace goes from
// the trigger to the effect; and measures it. It is for every receiver that takes an inbox.Handler, whatever the inbox is. Where
// nobody listens it is handle itself.
func (t *Telemetry) Handler(consumer Consumer, handle inbox.Handler) inbox.Handler {
	if t.silent() || handle == nil {
		return handle
	}
	if consumer.System == "" {
		consumer.System = other
	}
	attrs := []attribute.KeyValue{system.String(consumer.System), operationName.String("process"), operationType.String("process")}
	for _, a := range []attribute.KeyValue{group.String(consumer.Name), destination.String(consumer.Destination)} {
		if a.Value.AsString() != "" {
			attrs = append(attrs, a)
		}
	}
	return func(ctx context.Context, event outbox.Event) (result inbox.Result, err error) {
		began := time.Now()
		var span trace.Span
		if t.tracer != nil {
			ctx, span = t.begin(ctx, "process ", trace.SpanKindConsumer, &event, attrs[:len(attrs):len(attrs)])
		}
		err = errPanicked
		defer func() { // also when handle panics
			what := result.Outcome.String()
			if err != nil {
				what = failed
			}
			if span != nil {
				span.SetAttributes(outcome.String(what))
				if err != nil {
					t.failed(span, err)
				}
				span.End()
			}
			if m := t.measure; m != nil {
				v := values{consumer.Name, consumer.System, consumer.Destination, "process", what, kind(err)}
				m.consumed.add(ctx, 1, v)
				m.processDuration.record(ctx, time.Since(began), v)
			}
		}()
		result, err = handle(ctx, event)
		return result, err
	}
}
