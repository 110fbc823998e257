package otelendstate_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/otelendstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// A trigger's trace goes through the outbox and the relay to the consumer, and on from there: a consumer that finalizes something
// itself puts its events into the same trace.
func TestOneTraceFromTriggerToEffect(t *testing.T) {
	w := newWorld(t)
	ctx, root := w.tracers.Tracer("service").Start(t.Context(), "callback")
	_, err := w.fin.Do(ctx, guard.Text("b1"), "threshold", completed)
	require.NoError(t, err)
	root.End()

	second, err := finalize.NewSQL(w.db, &finalize.Config{Aggregate: "report", Guard: guard.Ledger{}, Trace: w.telemetry.Finalize(), Outbox: outbox.Writer{Headers: w.telemetry.Headers()}, Logger: quiet})
	require.NoError(t, err)
	handle := w.telemetry.Handler(otelendstate.Consumer{Name: "results", System: "test"}, func(ctx context.Context, e outbox.Event) (inbox.Result, error) {
		if e.Type != "batch.completed" {
			return inbox.Result{Outcome: inbox.Skipped}, nil
		}
		_, err := second.Do(ctx, guard.Text(e.AggregateID), "event", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
			return finalize.Outcome{State: "WRITTEN", Events: []outbox.Event{{Type: "report.written", Payload: []byte("{}")}}}, nil
		})
		return inbox.Result{Outcome: inbox.Applied}, err
	})
	w.publish(2, outbox.PublisherFunc(func(ctx context.Context, e outbox.Event) error {
		_, err := handle(context.WithoutCancel(t.Context()), e) // as another process would, that has no span
		return err
	}), &relay.Config{Destination: "nats://broker:4222"})

	require.Equal(t, `callback
  finalize batch
    process batch.completed
      finalize report
        process report.written
        publish report.written
        work report
    publish batch.completed
    work batch
`, tree(t, w.spans.GetSpans()))
	published := w.span("publish batch.completed")
	require.Equal(t, trace.SpanKindProducer, published.SpanKind)
	requireAttributes(t, published, map[string]any{"messaging.system": "nats", "messaging.operation.type": "send", "server.address": "broker", "server.port": int64(4222), "endstate.subscription": "default", "endstate.event.type": "batch.completed"})
	processed := w.span("process batch.completed")
	require.Equal(t, trace.SpanKindConsumer, processed.SpanKind)
	requireAttributes(t, processed, map[string]any{"messaging.system": "test", "messaging.consumer.group.name": "results", "endstate.outcome": "applied"})
	requireAttributes(t, w.span("finalize batch"), map[string]any{"endstate.aggregate": "batch", "endstate.trigger": "threshold", "endstate.outcome": "won", "endstate.state": "COMPLETE", "endstate.attempts": int64(1)})
}

// A batch has a span of its own, linked to the traces of its events, each of which has one there.
func TestABatchIsLinkedToItsTraces(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		_, err := w.fin.Do(t.Context(), guard.Text(fmt.Sprint("b", i)), "threshold", completed)
		require.NoError(t, err)
	}
	var in trace.SpanContext
	failing := errors.New("refused " + payload)
	w.publish(3, outbox.PublisherFunc(func(ctx context.Context, e outbox.Event) error {
		in = trace.SpanContextFromContext(ctx)
		if err := failing; err != nil {
			failing = nil
			return err
		}
		return nil
	}), &relay.Config{MinBackoff: 1})
	spans := w.spans.GetSpans()
	batches := slices.DeleteFunc(slices.Clone(spans), func(s tracetest.SpanStub) bool { return s.Name != "publish" })
	require.NotEmpty(t, batches)
	require.True(t, in.IsValid(), "the publisher's context has the span")
	require.Len(t, batches[0].Links, 3)
	require.Equal(t, codes.Error, batches[0].Status.Code)
	requireAttributes(t, batches[0], map[string]any{"messaging.batch.message_count": int64(3)})
	each, refused := map[trace.TraceID]int{}, 0
	for _, s := range spans {
		if s.Name == "publish batch.completed" {
			each[s.SpanContext.TraceID()]++
			if s.Status.Code == codes.Error {
				refused++
			}
		}
	}
	require.Len(t, each, 3)
	require.Equal(t, 1, refused)
}

// A batch is linked to as many traces as SDKs keep, and to none that isn't sampled, in which it has no spans either.
func TestABatchOfManyTraces(t *testing.T) {
	every := tracetest.NewInMemoryExporter() // of a sampler that doesn't ask what the trace's was
	w := newWorld(t, func(c *otelendstate.Config, _ *finalize.Config) {
		c.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSyncer(every), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	})
	w.spans = every
	hooks := w.telemetry.Relay("")
	for flags, want := range map[string][2]int{"01": {128, 200}, "00": {0, 0}} {
		w.spans.Reset()
		try := relay.Try{Destination: "redis://localhost", Events: make([]outbox.Event, 200)}
		for i := range try.Events {
			try.Events[i] = outbox.Event{Type: "t", Headers: map[string]string{"traceparent": fmt.Sprintf("00-%032x-%016x-%s", i+1, i+1, flags)}}
		}
		hooks.Tried(hooks.Trying(t.Context(), try), try, nil, time.Second)
		require.Len(t, w.span("publish").Links, want[0])
		require.Zero(t, w.span("publish").DroppedLinks)
		require.Len(t, w.named("publish t"), want[1])
	}
}

// A destination's URL says which system it is, by the name that semantic conventions have for it, and where.
func TestSystemsOfDestinations(t *testing.T) {
	w := newWorld(t)
	hooks := w.telemetry.Relay("")
	for destination, system := range map[string]string{
		"redis://r:6379": "redis", "rediss://r:6379": "redis", "nats://r:4222": "nats", "tls://r:4222": "nats", "kafka://r:9092": "kafka", "amqp://r:5672": "rabbitmq",
		"amqps://r:5671": "rabbitmq", "http://r:80": "webhook", "https://r:443": "webhook", "": "_OTHER",
	} {
		w.spans.Reset()
		try := relay.Try{Destination: destination, Events: []outbox.Event{{Type: "t"}}}
		hooks.Tried(hooks.Trying(t.Context(), try), try, nil, time.Second)
		requireAttributes(t, w.span("publish t"), map[string]any{"messaging.system": system})
		if destination != "" {
			requireAttributes(t, w.span("publish t"), map[string]any{"server.address": "r"})
		}
	}
}

// The handler of a relay.NewConsumer runs in the event's trace, too.
func TestAConsumerOfTheLogIsInTheTrace(t *testing.T) {
	w := newWorld(t)
	ctx, root := w.tracers.Tracer("service").Start(t.Context(), "callback")
	_, err := w.fin.Do(ctx, guard.Text("b1"), "threshold", completed)
	require.NoError(t, err)
	root.End()
	running, stop := context.WithCancel(t.Context())
	defer stop()
	consumer, err := relay.NewConsumerSQL(w.db, func(ctx context.Context, tx *sql.Tx, _ outbox.Event) error {
		defer stop()
		_, err := outbox.Writer{Headers: w.telemetry.Headers()}.Put(ctx, sqliteTx(tx), outbox.Event{AggregateType: "credit", AggregateID: "1", Type: "credited", Payload: []byte("{}")})
		return err
	}, &relay.Config{Subscription: "credits", Logger: quiet, Trace: w.telemetry.Relay("credits"), Types: []string{"batch.*"}})
	require.NoError(t, err)
	require.NoError(t, consumer.Run(running))
	require.Equal(t, `callback
  finalize batch
    process batch.completed
    work batch
`, tree(t, w.spans.GetSpans()))
	var header string
	require.NoError(t, w.db.QueryRow("SELECT json_extract(headers, '$.traceparent') FROM endstate_outbox WHERE type = 'credited'").Scan(&header))
	require.Contains(t, header, root.SpanContext().TraceID().String())
	require.Contains(t, header, w.span("process batch.completed").SpanContext.SpanID().String())
	require.Equal(t, 1, w.count("messaging.client.consumed.messages", attribute.String("messaging.consumer.group.name", "credits")), "measured as a consumer")
}

// F48: a span names the outcome of its call. What keys, payloads and errors hold stands in no attribute, unless it is asked for.
func TestNoSpanTellsWhatItIsAbout(t *testing.T) {
	for _, identifiers := range []bool{false, true} {
		t.Run(fmt.Sprint("identifiers=", identifiers), func(t *testing.T) {
			w := newWorld(t, func(c *otelendstate.Config, f *finalize.Config) {
				c.Identifiers = identifiers
				f.Tenant = func(context.Context) (string, error) { return "tenant-secret", nil }
			})
			failure := errors.New("of " + payload + " and " + password)
			_, err := w.fin.Do(t.Context(), guard.Text(secretKey), "threshold", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
				return finalize.Outcome{}, failure
			})
			require.ErrorIs(t, err, failure)
			_, err = w.fin.Do(t.Context(), guard.Text(secretKey), "threshold", completed)
			require.NoError(t, err)
			locks := w.telemetry.Lock("batches", lock.NewLocal())
			require.NoError(t, locks.Do(t.Context(), secretKey, func(ctx context.Context) error {
				return errors.Join(nil, ignore(locks.Try(ctx, secretKey, func(context.Context) error { return nil })))
			}))
			handle := w.telemetry.Handler(otelendstate.Consumer{Name: "results"}, func(context.Context, outbox.Event) (inbox.Result, error) {
				return inbox.Result{}, outbox.Permanent(failure)
			})
			first := true
			w.publish(1, outbox.PublisherFunc(func(ctx context.Context, e outbox.Event) error {
				if first {
					first = false
					return failure
				}
				_, err := handle(ctx, e)
				require.Error(t, err)
				return nil
			}), &relay.Config{Destination: "nats://user:" + password + "@broker:4222/" + payload, MinBackoff: 1})

			told := fmt.Sprintf("%+v\n%+v", attributesOf(w.spans.GetSpans()), w.collect())
			for _, secret := range []string{secretKey, payload, "tenant-secret"} {
				require.Equal(t, identifiers, strings.Contains(told, secret), secret)
			}
			metrics := fmt.Sprintf("%+v", w.collect())
			for _, secret := range []string{secretKey, payload, password, "tenant-secret"} {
				require.NotContains(t, metrics, secret)
			}
			require.Len(t, w.named("lock batches"), 2)
			for _, name := range []string{"finalize batch", "publish batch.completed", "process batch.completed", "lock batches"} {
				require.NotEmpty(t, w.named(name), name)
				for _, s := range w.named(name) {
					require.Equal(t, identifiers, slices.ContainsFunc(s.Attributes, func(a attribute.KeyValue) bool { return a.Key == "endstate.key" }), name)
				}
			}
		})
	}
}

func ignore(error) error { return nil }

// A receiver's own span, such as an HTTP server's, is linked to the delivery's, which is in the trace of the event.
func TestAReceiversOwnSpanIsLinked(t *testing.T) {
	w := newWorld(t)
	ctx, producer := w.tracers.Tracer("service").Start(t.Context(), "producer")
	headers := w.telemetry.Headers()(ctx)
	producer.End()
	here, server := w.tracers.Tracer("server").Start(t.Context(), "POST /events")
	handle := w.telemetry.Handler(otelendstate.Consumer{Name: "results"}, func(context.Context, outbox.Event) (inbox.Result, error) {
		return inbox.Result{Outcome: inbox.Applied}, nil
	})
	for _, name := range []string{"traceparent", "Traceparent"} {
		w.spans.Reset()
		_, err := handle(here, outbox.Event{Type: "t", Headers: map[string]string{name: headers["traceparent"]}})
		require.NoError(t, err)
		processed := w.span("process t")
		require.Equal(t, producer.SpanContext().SpanID(), processed.Parent.SpanID())
		require.Len(t, processed.Links, 1)
		require.Equal(t, server.SpanContext().SpanID(), processed.Links[0].SpanContext.SpanID())
	}
	server.End()
	w.spans.Reset()
	_, err := handle(ctx, outbox.Event{Type: "t", Headers: headers})
	require.NoError(t, err)
	require.Empty(t, w.span("process t").Links, "it is in the same trace")
	w.spans.Reset()
	_, err = handle(here, outbox.Event{Type: "t", Headers: map[string]string{"traceparent": "nonsense"}})
	require.NoError(t, err)
	require.Equal(t, server.SpanContext().SpanID(), w.span("process t").Parent.SpanID())
}

// A trigger that is too early has done nothing wrong: its spans have no error, and say what became of it.
func TestTooEarlyIsNoFailure(t *testing.T) {
	w := newWorld(t)
	_, err := w.fin.Do(t.Context(), guard.Text("b1"), "threshold", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
		return finalize.Outcome{}, finalize.ErrNotReady
	})
	require.ErrorIs(t, err, finalize.ErrNotReady)
	require.Equal(t, codes.Unset, w.span("work batch").Status.Code)
	require.Equal(t, codes.Unset, w.span("finalize batch").Status.Code)
	requireAttributes(t, w.span("finalize batch"), map[string]any{"endstate.outcome": "not_ready"})
}

// F48: a panic goes on, and the span of what panicked is ended.
func TestAPanicEndsItsSpan(t *testing.T) {
	w := newWorld(t)
	require.Panics(t, func() {
		_, _ = w.fin.Do(t.Context(), guard.Text("b1"), "threshold", func(context.Context, *sql.Tx) (finalize.Outcome, error) { panic("broken") })
	})
	require.Equal(t, codes.Error, w.span("work batch").Status.Code)
	handle := w.telemetry.Handler(otelendstate.Consumer{Name: "results"}, func(context.Context, outbox.Event) (inbox.Result, error) { panic("broken") })
	require.Panics(t, func() { _, _ = handle(t.Context(), outbox.Event{Type: "t"}) })
	require.Equal(t, codes.Error, w.span("process t").Status.Code)
	locks := w.telemetry.Lock("l", lock.NewLocal())
	require.Panics(t, func() { _ = locks.Do(t.Context(), "k", func(context.Context) error { panic("broken") }) })
	require.NotEmpty(t, w.span("lock l").EndTime)
}

func requireAttributes(t *testing.T, span tracetest.SpanStub, want map[string]any) {
	t.Helper()
	got := map[string]any{}
	for _, a := range span.Attributes {
		if _, asked := want[string(a.Key)]; asked {
			got[string(a.Key)] = a.Value.AsInterface()
		}
	}
	require.Equal(t, want, got, span.Name)
}

// attributesOf are everything that spans tell.
func attributesOf(spans tracetest.SpanStubs) (all []string) {
	for _, s := range spans {
		all = append(all, s.Name, s.Status.Description, fmt.Sprint(s.Attributes))
		for _, e := range s.Events {
			all = append(all, e.Name, fmt.Sprint(e.Attributes))
		}
		for _, l := range s.Links {
			all = append(all, fmt.Sprint(l.Attributes))
		}
	}
	return all
}

// tree is the only trace that there is, as text: children by their names.
func tree(t *testing.T, spans tracetest.SpanStubs) string {
	t.Helper()
	var text strings.Builder
	var print func(parent trace.SpanID, indent string)
	print = func(parent trace.SpanID, indent string) {
		var children []tracetest.SpanStub
		for _, s := range spans {
			require.Equal(t, spans[0].SpanContext.TraceID(), s.SpanContext.TraceID(), "a second trace: %s", s.Name)
			if s.Parent.SpanID() == parent {
				children = append(children, s)
			}
		}
		slices.SortFunc(children, func(a, b tracetest.SpanStub) int { return strings.Compare(a.Name, b.Name) })
		for _, s := range children {
			fmt.Fprintf(&text, "%s%s\n", indent, s.Name)
			print(s.SpanContext.SpanID(), indent+"  ")
		}
	}
	print(trace.SpanID{}, "")
	return text.String()
}
