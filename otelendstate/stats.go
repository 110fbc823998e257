package otelendstate

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/endstate-go/endstate/outbox/relay"
)

// statsTimeout bounds how long a collection waits for the database.
const statsTimeout = 5 * time.Second

// Observe measures an outbox's backlog, by subscription, whenever metrics are collected, until stop is called. The figures are
// read from the database, where they are counted up to relay.StatsLimit, at most once in Config.StatsInterval, by the processes
// that observe: one is enough. While the database can't be asked there are no figures, and the SDK gets the error.
func (t *Telemetry) Observe(admin *relay.Admin) (stop func() error, err error) {
	if t.measure == nil {
		return func() error { return nil }, nil
	}
	o := &observer{read: admin.Stats, interval: t.cfg.StatsInterval}
	var errs []error
	number := func(name, unit, description string, of func(*relay.Stats) int64) {
		g, err := t.measure.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		o.numbers = append(o.numbers, number{g, of})
	}
	number("endstate.relay.pending", "{event}", "Events that a subscription's relays have not come to.", func(s *relay.Stats) int64 { return s.Pending })
	number("endstate.relay.backlog", "{event}", "Events that are neither published nor dead: the lag, and what failed or waits behind it.", func(s *relay.Stats) int64 { return s.Pending + s.Retrying })
	number("endstate.relay.dead_letters", "{event}", "Dead letters that are kept.", func(s *relay.Stats) int64 { return s.Dead })
	number("endstate.relay.relays", "{relay}", "Running relays.", func(s *relay.Stats) int64 { return int64(len(s.Relays)) })
	number("endstate.relay.unowned_partitions", "{partition}", "Partitions that no running relay owns.", func(s *relay.Stats) int64 { return int64(s.Unowned) })
	number("endstate.relay.blocked_partitions", "{partition}", "Partitions whose events the destination doesn't take.", func(s *relay.Stats) int64 { return int64(len(s.Blocked)) })
	o.age, err = t.measure.meter.Float64ObservableGauge("endstate.relay.oldest_age", metric.WithUnit("s"), metric.WithDescription("The age of the oldest event that is neither published nor dead."))
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	instruments := []metric.Observable{o.age}
	for _, n := range o.numbers {
		instruments = append(instruments, n.gauge)
	}
	registration, err := t.measure.meter.RegisterCallback(o.observe, instruments...)
	if err != nil {
		return nil, err
	}
	return registration.Unregister, nil
}

// observer keeps what it read for a while, for the readers that collect one after the other.
type observer struct {
	read     func(context.Context) ([]relay.Stats, error)
	interval time.Duration
	numbers  []number
	age      metric.Float64ObservableGauge

	mu    sync.Mutex
	asked time.Time
	stats []relay.Stats
	err   error
}

type number struct {
	gauge metric.Int64ObservableGauge
	of    func(*relay.Stats) int64
}

func (o *observer) observe(ctx context.Context, to metric.Observer) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.asked.IsZero() || time.Since(o.asked) >= o.interval {
		ctx, cancel := context.WithTimeout(ctx, statsTimeout)
		o.stats, o.err = o.read(ctx)
		cancel()
		o.asked = time.Now()
	}
	if o.err != nil {
		return o.err
	}
	for i := range o.stats {
		s := &o.stats[i]
		of := metric.WithAttributes(subscription.String(s.Subscription))
		to.ObserveFloat64(o.age, s.OldestAge.Seconds(), of)
		for _, n := range o.numbers {
			to.ObserveInt64(n.gauge, n.of(s), of)
		}
	}
	return nil
}
