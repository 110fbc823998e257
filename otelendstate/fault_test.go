package otelendstate_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/otelendstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// While the database can't be asked there are no figures, rather than old ones, and who collects gets the error.
func TestWithoutADatabaseThereAreNoFigures(t *testing.T) {
	w := newWorld(t)
	admin, err := relay.NewAdminSQL(w.db, nil)
	require.NoError(t, err)
	_, err = w.fin.Do(t.Context(), guard.Text("b0"), "threshold", completed)
	require.NoError(t, err)
	w.publish(1, outbox.PublisherFunc(func(context.Context, outbox.Event) error { return nil }), &relay.Config{})
	_, err = w.telemetry.Observe(admin)
	require.NoError(t, err)
	require.Contains(t, w.collect(), "endstate.relay.pending")
	_, err = w.db.Exec("ALTER TABLE endstate_outbox_subscriptions RENAME TO away")
	require.NoError(t, err)
	var all metricdata.ResourceMetrics
	require.ErrorContains(t, w.reader.Collect(t.Context(), &all), "endstate_outbox_subscriptions")
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			require.NotEqual(t, "endstate.relay.pending", m.Name)
		}
	}
	_, err = w.db.Exec("ALTER TABLE away RENAME TO endstate_outbox_subscriptions")
	require.NoError(t, err)
	require.Contains(t, w.collect(), "endstate.relay.pending")
}

// Events without trace context have no spans of their own in a batch, which would each be a trace of one span.
func TestABatchWithoutTraces(t *testing.T) {
	w := newWorld(t)
	hooks := w.telemetry.Relay("")
	try := relay.Try{Destination: "kafka://a.example:9092,b.example:9092", Events: []outbox.Event{{Type: "a"}, {Type: "b"}, {Type: "c"}}}
	hooks.Tried(hooks.Trying(t.Context(), try), try, []error{nil, errors.New("refused"), nil}, time.Second)
	spans := w.spans.GetSpans()
	require.Len(t, spans, 1)
	require.Equal(t, "publish", spans[0].Name)
	require.Empty(t, spans[0].Links)
	// Several brokers are one address, without a port.
	requireAttributes(t, spans[0], map[string]any{"server.address": "a.example:9092,b.example:9092", "messaging.system": "kafka"})
	for _, a := range spans[0].Attributes {
		require.NotEqual(t, attribute.Key("server.port"), a.Key)
	}
	require.Equal(t, 2, w.count("messaging.client.sent.messages", attribute.String("server.address", "a.example:9092,b.example:9092"))-w.count("messaging.client.sent.messages", attribute.String("error.type", "_OTHER")))
}

// The hooks of a call that no span was begun for, and of a lock that was lost, tell what they know, and nothing else.
func TestHooksOutsideOfASpan(t *testing.T) {
	w := newWorld(t)
	hooks, call := w.telemetry.Finalize(), finalize.Call{Ref: guard.Ref{Aggregate: "batch"}, Trigger: "sweep", Attempt: 1}
	hooks.Won(t.Context(), call, finalize.Receipt{State: "COMPLETE"})
	hooks.Retry(t.Context(), call, stateError("40001"), time.Second)
	hooks.Ran(t.Context(), call, nil)
	require.Empty(t, w.spans.GetSpans())
	require.Equal(t, 1, w.count("endstate.finalize.calls", by("sweep", "won")...))

	locks := w.telemetry.Lock("reports", lock.NewLocal())
	require.ErrorIs(t, locks.Do(t.Context(), "k", func(context.Context) error { return fmt.Errorf("renewing: %w", lock.ErrLost) }), lock.ErrLost)
	require.Equal(t, 1, w.count("endstate.lock.hold.duration", attribute.String("endstate.outcome", "lost")))
	requireAttributes(t, w.span("lock reports"), map[string]any{"endstate.outcome": "lost", "error.type": "lost"})
	crashing := w.telemetry.Lock("crashing", crash{lock.NewLocal()})
	require.Panics(t, func() { _ = crashing.Do(t.Context(), "k", func(context.Context) error { return nil }) })
	requireAttributes(t, w.span("lock crashing"), map[string]any{"endstate.outcome": "_OTHER", "error.type": "_OTHER"})
	_, err := otelendstate.New(&otelendstate.Config{StatsInterval: -1})
	require.ErrorIs(t, err, otelendstate.ErrConfig)
}

// crash is a lock that panics.
type crash struct{ lock.Locker }

func (crash) Do(context.Context, string, func(context.Context) error) error { panic("broken") }
