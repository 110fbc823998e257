package otelendstate

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// maxLinks is how many of a batch's events its span is linked to, which is what SDKs keep.
const maxLinks = 128

type tryKey struct{} // the span of a call of a publisher, or of a consumer's handler

// Relay returns hooks for relay.Config.Trace of the relays of a subscription, whose name is that of relay.Config.Subscription (empty:
// relay.DefaultSubscription): a span for each call of the publisher, one for each event in the trace that it carries, and
// metrics. The handler of relay.NewConsumer runs in a span of the event's trace. Hooks of your own go around them; where nobody
// listens there are none.
func (t *Telemetry) Relay(subscription string) *relay.Trace {
	if t.silent() {
		return &relay.Trace{}
	}
	if subscription == "" {
		subscription = relay.DefaultSubscription
	}
	r := &relaying{Telemetry: t, subscription: subscription}
	hooks := &relay.Trace{Tried: r.tried}
	if t.tracer != nil {
		hooks.Trying = r.trying
	}
	if m := t.measure; m != nil {
		of := values{subscription}
		hooks.Published = func(ctx context.Context, e outbox.Event, age time.Duration) {
			m.eventAge.record(ctx, age, values{subscription, e.Type})
		}
		hooks.Failed = func(ctx context.Context, e outbox.Event, _ int, _ error, _ time.Duration) {
			m.failedAttempts.add(ctx, 1, values{subscription, e.Type})
		}
		hooks.Dead = func(ctx context.Context, e outbox.Event, _ int, _ error) {
			m.dead.add(ctx, 1, values{subscription, e.Type})
		}
		hooks.Blocked = func(ctx context.Context, err error) {
			if err != nil {
				m.outages.add(ctx, 1, of)
			}
		}
		hooks.Owns = func(ctx context.Context, partitions int) { m.owned.record(ctx, partitions, of) }
		hooks.LeaseLost = func(ctx context.Context) { m.leaseLosses.add(ctx, 1, of) }
		hooks.Reconnecting = func(ctx context.Context, _ error, _ time.Duration) { m.reconnects.add(ctx, 1, of) }
	}
	return hooks
}

// relaying is what a subscription's hooks know.
type relaying struct {
	*Telemetry
	subscription string
	last         atomic.Pointer[address]
}

// address is a relay's destination by semantic conventions.
type address struct {
	of, system, server, port string
}

// systems are the schemes whose broker has another name.
var systems = map[string]string{"": other, "handler": "endstate", "rediss": "redis", "http": "webhook", "https": "webhook", "tls": "nats", "amqp": "rabbitmq", "amqps": "rabbitmq"}

func (r *relaying) address(destination string) *address {
	if a := r.last.Load(); a != nil && a.of == destination {
		return a
	}
	a := &address{of: destination, system: destination}
	if u, err := url.Parse(destination); err == nil && u.Host != "" {
		a.system, a.server, a.port = u.Scheme, u.Hostname(), u.Port()
		if strings.Contains(u.Host, ",") { // several, each with its port
			a.server, a.port = u.Host, ""
		}
	}
	if name, ok := systems[a.system]; ok {
		a.system = name
	}
	r.last.Store(a)
	return a
}

func (r *relaying) attributes(to *address, operation, kind string) []attribute.KeyValue {
	attrs := []attribute.KeyValue{system.String(to.system), operationName.String(operation), operationType.String(kind), subscription.String(r.subscription)}
	if to.server != "" {
		attrs = append(attrs, serverAddress.String(to.server))
	}
	if port, err := strconv.Atoi(to.port); err == nil {
		attrs = append(attrs, serverPort.Int(port))
	}
	return attrs
}

// trying begins the span of a call. One event's is in its own trace; a batch's is by itself, and linked to those of its events.
func (r *relaying) trying(ctx context.Context, try relay.Try) context.Context {
	to := r.address(try.Destination)
	var span trace.Span
	switch {
	case try.Consumer:
		ctx, span = r.begin(ctx, "process ", trace.SpanKindConsumer, &try.Events[0], r.attributes(to, "process", "process"))
	case len(try.Events) == 1:
		ctx, span = r.begin(ctx, "publish ", trace.SpanKindProducer, &try.Events[0], r.attributes(to, "publish", "send"))
	default:
		var links []trace.Link
		for i := range try.Events {
			if origin := r.origin(&try.Events[i]); origin.IsSampled() && len(links) < maxLinks {
				links = append(links, trace.Link{SpanContext: origin})
			}
		}
		attrs := append(r.attributes(to, "publish", "send"), batchCount.Int(len(try.Events)))
		ctx, span = r.tracer.Start(ctx, "publish", trace.WithSpanKind(trace.SpanKindClient), trace.WithLinks(links...), trace.WithAttributes(attrs...))
	}
	return context.WithValue(ctx, tryKey{}, span)
}

// begin begins the span of an event's way, in the trace that it carries.
func (t *Telemetry) begin(ctx context.Context, name string, kind trace.SpanKind, event *outbox.Event, attrs []attribute.KeyValue, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	ctx, more := t.under(ctx, event)
	attrs = append(attrs, eventType.String(event.Type), messageID.String(event.ID.String()), aggregate.String(event.AggregateType))
	if t.cfg.Identifiers {
		attrs = append(attrs, key.String(event.AggregateID))
	}
	opts = append(append(opts, more...), trace.WithSpanKind(kind), trace.WithAttributes(attrs...))
	return t.tracer.Start(ctx, name+event.Type, opts...)
}

func (r *relaying) tried(ctx context.Context, try relay.Try, errs []error, took time.Duration) {
	to := r.address(try.Destination)
	taken := len(try.Events)
	var first error
	for _, err := range errs {
		if err != nil {
			taken--
			if first == nil {
				first = err
			}
		}
	}
	if span, ok := ctx.Value(tryKey{}).(trace.Span); ok {
		if len(try.Events) > 1 {
			r.each(ctx, span, to, try, errs, took)
		}
		if first != nil {
			r.failed(span, first)
		}
		span.End()
	}
	m := r.measure
	switch {
	case m == nil:
	case try.Consumer:
		v := values{r.subscription, to.system, "", "process", "applied", kind(first)}
		if first != nil {
			v[4] = failed
		}
		m.consumed.add(ctx, 1, v)
		m.processDuration.record(ctx, took, v)
	default:
		v := values{r.subscription, to.system, to.server, to.port, "publish"}
		if taken > 0 {
			m.sent.add(ctx, taken, v)
		}
		for _, err := range errs {
			if err != nil {
				v[5] = kind(err)
				m.sent.add(ctx, 1, v)
			}
		}
		v[5] = kind(first)
		m.sendDuration.record(ctx, took, v)
	}
}

// each makes the spans of a batch's events, each in the trace that it carries, if that is sampled.
func (r *relaying) each(ctx context.Context, batch trace.Span, to *address, try relay.Try, errs []error, took time.Duration) {
	end := time.Now()
	for i := range try.Events {
		event := &try.Events[i]
		if !r.origin(event).IsSampled() {
			continue
		}
		_, span := r.begin(ctx, "publish ", trace.SpanKindProducer, event, r.attributes(to, "publish", "send"), trace.WithTimestamp(end.Add(-took)))
		if len(errs) > i && errs[i] != nil {
			r.failed(span, errs[i])
		}
		span.End(trace.WithTimestamp(end))
	}
}
