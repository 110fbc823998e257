package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"sync"

	"go.opentelemetry.io/otel/trace"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// triggers are the incident's four, and how often each of them fires for one batch: the recovery runs away.
var triggers = map[finalize.Trigger]int{"periodic": 2, "threshold": 1, "monitor": 1, "recovery": 10}

// pull has all triggers race for each batch.
func (w *world) pull(ctx context.Context) error {
	for i := range w.opts.batches {
		batch := fmt.Sprintf("batch-%02d", i+1)
		if _, err := w.db.ExecContext(ctx, "INSERT INTO batches VALUES (?, 'PERFORMING_COMPARISONS')", batch); err != nil {
			return err
		}
		var calls sync.WaitGroup
		failed := make(chan error, 100)
		for name, times := range triggers {
			for range times {
				calls.Go(func() {
					if err := w.trigger(ctx, name, batch); err != nil {
						failed <- fmt.Errorf("trigger %s: %w", name, err)
					}
				})
			}
		}
		calls.Wait()
		w.wake()
		select {
		case err := <-failed:
			return err
		default:
		}
	}
	return nil
}

// trigger is what each of them does: it completes the batch, or learns who did.
func (w *world) trigger(ctx context.Context, name finalize.Trigger, batch string) error {
	ctx, span := w.tracers.Tracer("pipeline").Start(ctx, string(name)+" trigger")
	defer span.End()
	receipt, err := w.batches.Do(ctx, guard.Text(batch), name, func(context.Context, *sql.Tx) (finalize.Outcome, error) {
		thin, err := json.Marshal(map[string]string{"batch": batch})
		return finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{
			{Type: "assessment.completed", Payload: thin},
			{Type: "assessment.consumed", Payload: thin},
		}}, err
	})
	if err == nil && receipt.Won {
		w.winners.Store(batch, trace.SpanContextFromContext(ctx).TraceID())
	}
	return err
}
