package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/endstate-go/endstate/otelendstate"
	"github.com/endstate-go/endstate/outbox/relay"
)

// metrics are what /metrics serves: the relays' by package otelendstate, the outbox's figures, Go's and the process's.
type metrics struct {
	telemetry *otelendstate.Telemetry
	provider  *metric.MeterProvider
	handler   http.Handler
}

func newMetrics() (*metrics, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := exporter.New(exporter.WithRegisterer(registry), exporter.WithoutScopeInfo(), exporter.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes))
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	m := &metrics{provider: metric.NewMeterProvider(metric.WithReader(reader))}
	m.telemetry, err = otelendstate.New(&otelendstate.Config{MeterProvider: m.provider})
	// While the database is away there are no figures of the outbox, and all else is served.
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	return m, err
}

// observe has the outbox's figures in it, until stop is called.
func (m *metrics) observe(admin *relay.Admin) (stop func(), err error) {
	unregister, err := m.telemetry.Observe(admin)
	if err != nil {
		return nil, err
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = errors.Join(unregister(), m.provider.Shutdown(ctx)) // nobody collects any more
	}, nil
}
