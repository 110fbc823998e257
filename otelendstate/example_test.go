package otelendstate_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/otelendstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// A trigger finalizes a batch, a relay hands its event to a consumer, and all of it is one trace. A service has an exporter to its
// back end in place of this one, a meter provider, and a broker between the relay and the consumer.
func Example() {
	ctx := context.Background()
	spans := tracetest.NewInMemoryExporter()
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	telemetry, err := otelendstate.New(&otelendstate.Config{TracerProvider: tracers})
	check(err)

	dir, err := os.MkdirTemp("", "endstate")
	check(err)
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "batches.db"))
	check(err)
	defer db.Close()
	rel := (*relay.Relay)(nil)
	hooks := telemetry.Finalize()
	ours := hooks.Won
	hooks.Won = func(ctx context.Context, c finalize.Call, r finalize.Receipt) { // a hook of one's own goes around
		ours(ctx, c, r)
		rel.Wake()
	}
	fin, err := finalize.NewSQL(db, &finalize.Config{
		Aggregate: "batch", Guard: guard.Ledger{}, Trace: hooks,
		Outbox: outbox.Writer{Headers: telemetry.Headers()},
	})
	check(err)
	check(fin.Migrate(ctx))

	running, stop := context.WithCancel(ctx)
	handle := telemetry.Handler(otelendstate.Consumer{Name: "entitlements", System: "in-process"}, func(_ context.Context, e outbox.Event) (inbox.Result, error) {
		defer stop()
		return inbox.Result{Outcome: inbox.Applied}, nil
	})
	rel, err = relay.NewSQL(db, outbox.PublisherFunc(func(ctx context.Context, e outbox.Event) error {
		_, err := handle(ctx, e)
		return err
	}), &relay.Config{Trace: telemetry.Relay(""), Logger: quiet})
	check(err)

	_, err = fin.Do(ctx, guard.Text("17"), "threshold", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
		return finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "assessment.completed", Payload: []byte("{}")}}}, nil
	})
	check(err)
	check(rel.Run(running))

	for _, s := range spans.GetSpans() {
		fmt.Println(s.Name, s.SpanContext.TraceID() == spans.GetSpans()[0].SpanContext.TraceID())
	}
	// Output:
	// work batch true
	// finalize batch true
	// process assessment.completed true
	// publish assessment.completed true
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
