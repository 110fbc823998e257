package finalize_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// A relay in the same process publishes at once what a finalization committed: it is woken after the commit. For a relay in
// another process, a relay.Notifier is woken in the same way.
func ExampleTrace_wake() {
	db, done := exampleDB()
	defer done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	rel, err := relay.NewSQL(db, outbox.PublisherFunc(func(_ context.Context, event outbox.Event) error {
		fmt.Println(event.AggregateType, event.AggregateID, event.Type)
		cancel()
		return nil
	}), &relay.Config{Logger: slog.New(slog.DiscardHandler)})
	check(err)
	fin, err := finalize.NewSQL(db, &finalize.Config{
		Aggregate: "batch", Guard: batchStatus(), Logger: slog.New(slog.DiscardHandler),
		Trace: &finalize.Trace{Won: func(context.Context, finalize.Call, finalize.Receipt) { rel.Wake() }},
	})
	check(err)
	check(fin.Migrate(ctx))
	ended := make(chan error)
	go func() { ended <- rel.Run(ctx) }()
	_, err = fin.Settle(context.WithoutCancel(ctx), guard.Text("b1"), "sweep", finalize.Outcome{State: "COMPLETE_STABLE",
		Events: []outbox.Event{{Type: "assessment.completed", Payload: []byte(`{"batch":"b1"}`)}}})
	check(err)
	check(<-ended)
	// Output:
	// batch b1 assessment.completed
}
