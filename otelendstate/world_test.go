package otelendstate_test

import (
	"context"
	"database/sql"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/otelendstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// world is a service with telemetry, on SQLite.
type world struct {
	t         *testing.T
	db        *sql.DB
	telemetry *otelendstate.Telemetry
	spans     *tracetest.InMemoryExporter
	tracers   *sdktrace.TracerProvider
	reader    *metric.ManualReader
	fin       *finalize.Finalizer[*sql.Tx]
}

var quiet = slog.New(slog.DiscardHandler)

func newWorld(t *testing.T, configure ...func(*otelendstate.Config, *finalize.Config)) *world {
	t.Helper()
	w := &world{t: t, db: newSQLite(t), spans: tracetest.NewInMemoryExporter(), reader: metric.NewManualReader()}
	w.tracers = sdktrace.NewTracerProvider(sdktrace.WithSyncer(w.spans))
	meters := metric.NewMeterProvider(metric.WithReader(w.reader))
	cfg := &otelendstate.Config{TracerProvider: w.tracers, MeterProvider: meters, StatsInterval: 1}
	fin := &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}, Logger: quiet}
	for _, f := range configure {
		f(cfg, fin)
	}
	var err error
	w.telemetry, err = otelendstate.New(cfg)
	require.NoError(t, err)
	fin.Trace, fin.Outbox = w.telemetry.Finalize(), outbox.Writer{Headers: w.telemetry.Headers()}
	w.fin, err = finalize.NewSQL(w.db, fin)
	require.NoError(t, err)
	require.NoError(t, w.fin.Migrate(t.Context()))
	return w
}

func newSQLite(t testing.TB) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "test.db")+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// completed is a callback that finalizes.
func completed(context.Context, *sql.Tx) (finalize.Outcome, error) {
	return finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "batch.completed", Payload: []byte(`{"of":"` + payload + `"}`)}}}, nil
}

// What no attribute may hold.
const (
	secretKey = "k-4711-secret"
	payload   = "payload-secret"
	password  = "password-secret"
)

// publish runs a relay until n events were published.
func (w *world) publish(n int, p outbox.Publisher, cfg *relay.Config) {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.t.Context())
	defer stop()
	if cfg.Trace == nil {
		cfg.Trace = w.telemetry.Relay(cfg.Subscription)
	}
	cfg.Logger = quiet
	taken := 0
	rel, err := relay.NewSQL(w.db, outbox.PublisherFunc(func(ctx context.Context, e outbox.Event) error {
		errs := p.Publish(ctx, []outbox.Event{e})
		if errs == nil || errs[0] == nil {
			if taken++; taken == n {
				stop() // the relay finishes its batch
			}
			return nil
		}
		return errs[0]
	}), cfg)
	require.NoError(w.t, err)
	require.NoError(w.t, rel.Run(ctx))
	require.Equal(w.t, n, taken)
}

// span returns the only span of this name.
func (w *world) span(name string) tracetest.SpanStub {
	w.t.Helper()
	all := w.named(name)
	require.Len(w.t, all, 1, "spans named %q", name)
	return all[0]
}

func (w *world) named(name string) tracetest.SpanStubs {
	return slices.DeleteFunc(w.spans.GetSpans(), func(s tracetest.SpanStub) bool { return s.Name != name })
}

func sqliteTx(tx *sql.Tx) endstate.Tx { return endstate.SQLiteTx(tx) }

// collect returns what each instrument has, by its name.
func (w *world) collect() map[string]metricdata.Aggregation {
	w.t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(w.t, w.reader.Collect(context.WithoutCancel(w.t.Context()), &all))
	found := map[string]metricdata.Aggregation{}
	for _, scope := range all.ScopeMetrics {
		require.Equal(w.t, otelendstate.Scope, scope.Scope.Name)
		for _, m := range scope.Metrics {
			found[m.Name] = m.Data
		}
	}
	return found
}

// count returns a counter's value, or a histogram's number of measurements, of the series that have these attributes.
func (w *world) count(name string, with ...attribute.KeyValue) (n int) {
	w.t.Helper()
	has := func(set attribute.Set) bool {
		return !slices.ContainsFunc(with, func(kv attribute.KeyValue) bool {
			v, ok := set.Value(kv.Key)
			return !ok || v != kv.Value
		})
	}
	switch data := w.collect()[name].(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			if has(p.Attributes) {
				n += int(p.Value)
			}
		}
	case metricdata.Gauge[int64]:
		for _, p := range data.DataPoints {
			if has(p.Attributes) {
				n += int(p.Value)
			}
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			if has(p.Attributes) {
				n += int(p.Count)
			}
		}
	}
	return n
}
