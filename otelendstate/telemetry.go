package otelendstate

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"
	nometric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	notrace "go.opentelemetry.io/otel/trace/noop"
)

// Scope is the name of the instrumentation scope that spans and metrics are of.
const Scope = "github.com/endstate-go/endstate/otelendstate"

// Config says where telemetry goes. A nil one, as the zero one, has none.
type Config struct {
	// TracerProvider is what makes spans: that of an SDK, or otel.GetTracerProvider(). Default: no spans, and no trace context in
	// events.
	TracerProvider trace.TracerProvider
	// MeterProvider is what takes measurements: that of an SDK, or otel.GetMeterProvider(). Default: no metrics.
	MeterProvider metric.MeterProvider
	// Propagator writes trace context into the headers of events, and reads it. Producers and consumers must agree on it. Default
	// propagation.TraceContext, that of the W3C; no baggage, which may hold anything.
	Propagator propagation.TextMapPropagator
	// Identifiers says that spans may tell which aggregates they are about, and whose: its key, its tenant, and the text of errors, in
	// which these stand. Default: they tell the kinds of aggregates, events, states and errors, and the ids of events. Metrics never
	// tell more than that.
	Identifiers bool
	// StatsInterval is how old the figures may be that Observe reads from the database, however often they are collected. Default
	// 15 s.
	StatsInterval time.Duration
}

// ErrConfig is returned for a configuration that doesn't make sense; the message names the field.
var ErrConfig = errors.New("otelendstate: invalid configuration")

// Telemetry makes the hooks and wrappers that turn what happens into spans and metrics. It is safe for concurrent use. One is
// enough for a process.
type Telemetry struct {
	cfg        Config
	tracer     trace.Tracer // nil: no spans
	measure    *instruments // nil: no metrics
	propagator propagation.TextMapPropagator
}

// New returns a Telemetry. It fails if the meter provider refuses an instrument.
func New(cfg *Config) (*Telemetry, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	t := &Telemetry{cfg: *cfg, propagator: cfg.Propagator}
	if t.propagator == nil {
		t.propagator = propagation.TraceContext{}
	}
	switch {
	case t.cfg.StatsInterval == 0:
		t.cfg.StatsInterval = 15 * time.Second
	case t.cfg.StatsInterval < 0:
		return nil, fmt.Errorf("%w: Config.StatsInterval is negative", ErrConfig)
	}
	if p := cfg.TracerProvider; p != nil && p != (notrace.TracerProvider{}) {
		t.tracer = p.Tracer(Scope, trace.WithSchemaURL(semconv.SchemaURL))
	}
	if p := cfg.MeterProvider; p != nil && p != (nometric.MeterProvider{}) {
		var err error
		if t.measure, err = newInstruments(p.Meter(Scope, metric.WithSchemaURL(semconv.SchemaURL))); err != nil {
			return nil, fmt.Errorf("otelendstate: %w", err)
		}
	}
	return t, nil
}

// silent reports whether nobody listens.
func (t *Telemetry) silent() bool { return t.tracer == nil && t.measure == nil }
