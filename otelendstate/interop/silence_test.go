package interop

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/otelendstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// F48: a database that falls silent holds up no collection forever, also where who collects has no deadline: scrapes would
// pile up. The next collection has the figures again.
func TestACollectionEndsWhereTheDatabaseFallsSilent(t *testing.T) {
	t.Parallel()
	direct := dbtest.Pool(t)
	require.NoError(t, pgx.BeginFunc(t.Context(), direct, func(tx pgx.Tx) error { return outbox.Writer{}.Migrate(t.Context(), tx) }))
	proxy := pgfault.New(t, direct.Config().ConnString())
	admin, err := relay.NewAdmin(dbtest.PoolOn(t, proxy.URL()), nil)
	require.NoError(t, err)
	reader := metric.NewManualReader()
	telemetry, err := otelendstate.New(&otelendstate.Config{MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)), StatsInterval: 1})
	require.NoError(t, err)
	stop, err := telemetry.Observe(admin)
	require.NoError(t, err)
	defer func() { require.NoError(t, stop()) }()

	silence := proxy.Arm(&pgfault.Fault{SQL: "SELECT", Do: pgfault.HalfOpen})
	collected := make(chan error, 1)
	go func() {
		var all metricdata.ResourceMetrics
		collected <- reader.Collect(context.Background(), &all)
	}()
	silence.RequireFired(t)
	select {
	case err := <-collected:
		require.ErrorIs(t, err, context.DeadlineExceeded)
	case <-time.After(2 * time.Minute):
		t.Fatal("the collection doesn't end")
	}
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
}
