package otelendstate_test

import (
	"context"
	"database/sql"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	nometric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	notrace "go.opentelemetry.io/otel/trace/noop"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/otelendstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// silent are the ways to have no provider.
func silent(t testing.TB) map[string]*otelendstate.Telemetry {
	t.Helper()
	all := map[string]*otelendstate.Telemetry{}
	for name, cfg := range map[string]*otelendstate.Config{
		"nil": nil, "zero": {}, "no-op": {TracerProvider: notrace.NewTracerProvider(), MeterProvider: nometric.NewMeterProvider()},
	} {
		var err error
		all[name], err = otelendstate.New(cfg)
		require.NoError(t, err)
	}
	return all
}

// Without a provider there are no hooks and no wrappers.
func TestNobodyListens(t *testing.T) {
	for name, telemetry := range silent(t) {
		require.Equal(t, &finalize.Trace{}, telemetry.Finalize(), name)
		require.Equal(t, &relay.Trace{}, telemetry.Relay(""), name)
		require.Nil(t, telemetry.Headers(), name)
		local := lock.NewLocal()
		require.Same(t, local, telemetry.Lock("l", local), name)
		handle := func(context.Context, outbox.Event) (inbox.Result, error) { return inbox.Result{}, nil }
		require.Equal(t, reflect.ValueOf(handle).Pointer(), reflect.ValueOf(telemetry.Handler(otelendstate.Consumer{Name: "c"}, handle)).Pointer(), name)
		stop, err := telemetry.Observe(nil)
		require.NoError(t, err)
		require.NoError(t, stop())
	}
}

func TestConfigIsChecked(t *testing.T) {
	_, err := otelendstate.New(&otelendstate.Config{StatsInterval: -1})
	require.ErrorIs(t, err, otelendstate.ErrConfig)
	require.ErrorContains(t, err, "StatsInterval")
}

// doors are what the measured code runs through.
type doors struct {
	fin    *finalize.Finalizer[*sql.Tx]
	handle inbox.Handler
	lock   lock.Locker
	writer outbox.Writer
}

func newDoors(t testing.TB, telemetry *otelendstate.Telemetry) *doors {
	t.Helper()
	d := &doors{lock: lock.NewLocal(), handle: func(context.Context, outbox.Event) (inbox.Result, error) {
		return inbox.Result{Outcome: inbox.Applied}, nil
	}}
	cfg := &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}, Logger: quiet}
	if telemetry != nil {
		cfg.Trace, cfg.Outbox.Headers = telemetry.Finalize(), telemetry.Headers()
		d.handle, d.lock = telemetry.Handler(otelendstate.Consumer{Name: "c"}, d.handle), telemetry.Lock("l", d.lock)
	}
	d.writer = cfg.Outbox
	var err error
	d.fin, err = finalize.NewSQL(newSQLite(t), cfg)
	require.NoError(t, err)
	require.NoError(t, d.fin.Migrate(t.Context()))
	_, err = d.fin.Do(t.Context(), guard.Text("b1"), "threshold", completed)
	require.NoError(t, err)
	return d
}

// parts are what is measured of d.
func (d *doors) parts(ctx context.Context) map[string]func() {
	events := []outbox.Event{{AggregateType: "a", AggregateID: "1", Type: "t", Payload: []byte("{}")}}
	key := guard.Text("b1")
	event := outbox.Event{Type: "t", Headers: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	return map[string]func(){
		"a repeat": func() { _, _ = d.fin.Do(ctx, key, "threshold", completed) },
		"headers":  func() { _, _ = d.writer.Prepare(ctx, events) },
		"delivery": func() { _, _ = d.handle(ctx, event) },
		"lock":     func() { _ = d.lock.Do(ctx, "k", func(context.Context) error { return nil }) },
	}
}

// F48: without a provider nothing is allocated that wasn't without telemetry.
func TestSilenceAllocatesNothing(t *testing.T) {
	without := map[string]float64{}
	for name, run := range newDoors(t, nil).parts(t.Context()) {
		without[name] = testing.AllocsPerRun(1000, run)
	}
	for way, telemetry := range silent(t) {
		for name, run := range newDoors(t, telemetry).parts(t.Context()) {
			require.LessOrEqual(t, testing.AllocsPerRun(1000, run), without[name], "%s, with providers: %s", name, way)
		}
	}
	require.Zero(t, without["a repeat"])
}

// Measurements of what was measured before allocate nothing either.
func TestMetricsAloneAllocateNothing(t *testing.T) {
	telemetry, err := otelendstate.New(&otelendstate.Config{MeterProvider: metric.NewMeterProvider(metric.WithReader(metric.NewManualReader()))})
	require.NoError(t, err)
	without, with := newDoors(t, nil).parts(t.Context()), newDoors(t, telemetry).parts(t.Context())
	for _, name := range []string{"a repeat", "headers", "delivery"} {
		require.LessOrEqual(t, testing.AllocsPerRun(1000, with[name]), testing.AllocsPerRun(1000, without[name]), name)
	}
}

func BenchmarkRepeat(b *testing.B) {
	b.ReportAllocs()
	all := silent(b)
	metrics, err := otelendstate.New(&otelendstate.Config{MeterProvider: metric.NewMeterProvider(metric.WithReader(metric.NewManualReader()))})
	require.NoError(b, err)
	unsampled, err := otelendstate.New(&otelendstate.Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))})
	require.NoError(b, err)
	for _, way := range []struct {
		name      string
		telemetry *otelendstate.Telemetry
	}{{"no telemetry", nil}, {"no provider", all["zero"]}, {"no-op providers", all["no-op"]}, {"metrics", metrics}, {"spans, unsampled", unsampled}} {
		b.Run(way.name, func(b *testing.B) {
			run := newDoors(b, way.telemetry).parts(b.Context())["a repeat"]
			b.ReportAllocs()
			for b.Loop() {
				run()
			}
		})
	}
}
