// Package otelendstate tells OpenTelemetry what the library does: spans from a trigger to the effect of its event, and metrics. It
// is a module of its own, so that nobody else gets OpenTelemetry's.
//
// # What it promises
//
//   - One trace goes from the trigger to each effect: through the outbox in the events' headers, then through any broker, to the
//     consumer's span.
//   - By default no attribute holds an aggregate's key, a tenant, a payload, a header, the text of an error (which may hold any
//     of these), or a credential. Spans tell the ids of events.
//   - An instrument has at most 1,000 combinations of attributes. Triggers, event types and kinds of errors beyond them are
//     counted as _OTHER.
//   - Where neither a tracer provider nor a meter provider is given, there are no hooks, and nothing is allocated.
//
// # Use
//
//	telemetry, err := otelendstate.New(&otelendstate.Config{
//		TracerProvider: otel.GetTracerProvider(), MeterProvider: otel.GetMeterProvider(),
//	})
//
//	finalize.Config{
//		Trace:  telemetry.Finalize(),
//		Outbox: outbox.Writer{Headers: telemetry.Headers()}, // trace context goes with the events
//		Lock:   finalize.LockConfig{Locker: telemetry.Lock("batches", locker)},
//	}
//	relay.Config{Trace: telemetry.Relay("")}
//	natsjs.NewConsumer(js, durable, telemetry.Handler(otelendstate.Consumer{Name: "results", System: "nats"}, handle), …)
//	stop, err := telemetry.Observe(admin) // in one process
//
// Providers are given, not taken from OpenTelemetry's globals: who forgets them gets no telemetry, and who has none pays nothing.
//
// # Spans
//
//	finalize <aggregate>     a call, in the span of whoever called; endstate.trigger, .outcome, .state, .winner.trigger, .attempts
//	  work <aggregate>         each run of its callback, and "prepare <aggregate>" of the first stage of DoPrepared
//	  publish <type>           each try to publish an event, by a relay (producer)
//	  process <type>           each delivery to a consumer (consumer)
//	lock <name>              from asking for a lock to giving it back
//	publish                  a call of the publisher with several events, linked to theirs; in it are the spans that the publisher makes
//
// A delivery's span is in the event's trace also where the receiver has a span of its own, an HTTP server's for instance; then
// it is linked to that. An event without trace context is published and processed in whatever trace there is.
//
// # Metrics
//
// Times are histograms in seconds; Prometheus' names have underscores for dots, and the unit and _total at the end.
//
//	endstate.finalize.calls               counter    endstate.aggregate, .trigger, .outcome, error.type
//	endstate.finalize.duration            histogram  the same, without calls that were answered within the process
//	endstate.finalize.retries             counter    endstate.aggregate, .trigger, error.type
//	endstate.finalize.unanswered_commits  counter    endstate.aggregate, .trigger, error.type
//	endstate.finalize.lock_failures       counter    endstate.aggregate, .trigger, .outcome: unavailable, lost
//	endstate.finalize.hot_keys            counter    endstate.aggregate
//	endstate.finalize.sweep.duration      histogram  error.type
//	messaging.client.sent.messages        counter    endstate.subscription, messaging.system, server.address, .port, error.type
//	messaging.client.operation.duration   histogram  the same
//	messaging.client.consumed.messages    counter    messaging.consumer.group.name, .system, .destination.name, endstate.outcome, error.type
//	messaging.process.duration            histogram  the same
//	endstate.event.age                    histogram  endstate.subscription, endstate.event.type: from commit to publication
//	endstate.relay.failed_attempts        counter    endstate.subscription, endstate.event.type
//	endstate.relay.dead_lettered          counter    endstate.subscription, endstate.event.type
//	endstate.relay.outages                counter    endstate.subscription
//	endstate.relay.lease_losses           counter    endstate.subscription
//	endstate.relay.reconnects             counter    endstate.subscription
//	endstate.relay.partitions             gauge      endstate.subscription: what this process's relay owns
//	endstate.lock.wait.duration           histogram  endstate.lock.name, endstate.outcome: acquired, held, unavailable, …
//	endstate.lock.hold.duration           histogram  endstate.lock.name, endstate.outcome: released, lost
//
// and, by Observe, gauges by endstate.subscription:
//
//	endstate.relay.pending                events that no relay has come to
//	endstate.relay.backlog                events that are neither published nor dead
//	endstate.relay.oldest_age             the age of the oldest of these, in seconds
//	endstate.relay.dead_letters           dead letters that are kept
//	endstate.relay.relays                 running relays
//	endstate.relay.unowned_partitions     partitions that no running relay owns
//	endstate.relay.blocked_partitions     partitions whose events the destination doesn't take
//
// The outcomes of a call are won, lost, differs (lost, and wanted another state or other events), cached (lost, and answered
// within the process), not_ready, busy, in_progress, conflict, unknown, lock_unavailable and failed. Those of a delivery are an
// inbox.Outcome's, and failed. A call that panicked is in no metric, and its span is never ended; that of its callback is.
//
// # What the names of errors are
//
// An error.type is the short name of an error that callers decide on (busy, conflict, not_found, permanent), else an SQLSTATE,
// else timeout, canceled, or _OTHER.
package otelendstate
