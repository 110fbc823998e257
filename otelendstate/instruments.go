package otelendstate

import (
	"errors"

	"go.opentelemetry.io/otel/metric"
)

// The buckets of histograms, in seconds.
var (
	durations = metric.WithExplicitBucketBoundaries(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
	ages      = metric.WithExplicitBucketBoundaries(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
)

// instruments are all that measure, each with its series.
type instruments struct {
	meter metric.Meter

	calls, retries, unanswered, hot, lockFailures *counter
	callDuration, sweepDuration                   *histogram

	sent, consumed                             *counter
	sendDuration, processDuration, eventAge    *histogram
	failedAttempts, dead, outages, leaseLosses *counter
	reconnects                                 *counter
	owned                                      *gauge

	lockWait, lockHold *histogram
}

func newInstruments(meter metric.Meter) (*instruments, error) {
	var errs []error
	count := func(name, unit, description string, of *series) *counter {
		c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return &counter{c, of}
	}
	spread := func(name, description string, buckets metric.HistogramOption, of *series) *histogram {
		h, err := meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description), buckets)
		errs = append(errs, err)
		return &histogram{h, of}
	}
	number := func(name, unit, description string, of *series) *gauge {
		g, err := meter.Int64Gauge(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return &gauge{g, of}
	}
	calls, refused := newSeries(aggregate, trigger, outcome, errorType), newSeries(aggregate, trigger, errorType)
	send := newSeries(subscription, system, serverAddress, serverPort, operationName, errorType)
	process := newSeries(group, system, destination, operationName, outcome, errorType)
	events, relays := newSeries(subscription, eventType), newSeries(subscription)
	locks := newSeries(lockName, outcome)
	m := &instruments{
		meter: meter,

		calls:         count("endstate.finalize.calls", "{call}", "Calls of a finalizer, by what became of them.", calls),
		callDuration:  spread("endstate.finalize.duration", "How long calls of a finalizer took, but for those answered within the process.", durations, calls),
		retries:       count("endstate.finalize.retries", "{transaction}", "Transactions that were run again, since the database broke them off.", refused),
		unanswered:    count("endstate.finalize.unanswered_commits", "{transaction}", "COMMITs without an answer, after which the database was asked what became of them.", refused),
		lockFailures:  count("endstate.finalize.lock_failures", "{call}", "Calls whose lock was unavailable, or lost while they worked.", newSeries(aggregate, trigger, outcome)),
		hot:           count("endstate.finalize.hot_keys", "{report}", "Reports of a key that is finalized again and again, though it is final.", newSeries(aggregate)),
		sweepDuration: spread("endstate.finalize.sweep.duration", "How long sweeps took.", durations, newSeries(errorType)),

		sent:            count("messaging.client.sent.messages", "{message}", "Events that a relay tried to publish.", send),
		sendDuration:    spread("messaging.client.operation.duration", "How long calls of a publisher took.", durations, send),
		consumed:        count("messaging.client.consumed.messages", "{message}", "Deliveries of events to consumers, by what became of them.", process),
		processDuration: spread("messaging.process.duration", "How long consumers took for a delivery.", durations, process),

		eventAge:       spread("endstate.event.age", "The time from an event's commit to its publication, by the database's clock.", ages, events),
		failedAttempts: count("endstate.relay.failed_attempts", "{attempt}", "Attempts to publish that failed by an event's own fault.", events),
		dead:           count("endstate.relay.dead_lettered", "{event}", "Events that became dead letters.", events),
		outages:        count("endstate.relay.outages", "{outage}", "How often a destination took nothing.", relays),
		leaseLosses:    count("endstate.relay.lease_losses", "{lease}", "Leases that relays lost.", relays),
		reconnects:     count("endstate.relay.reconnects", "{attempt}", "How often a relay couldn't reach its database.", relays),
		owned:          number("endstate.relay.partitions", "{partition}", "Partitions that this process's relay owns.", relays),

		lockWait: spread("endstate.lock.wait.duration", "How long callers waited for a lock, or until they gave up.", durations, locks),
		lockHold: spread("endstate.lock.hold.duration", "How long locks were held.", durations, locks),
	}
	return m, errors.Join(errs...)
}
