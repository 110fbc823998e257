package main

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// The events of a batch, and which consumer gets them.
var consumerOf = map[string]string{
	"assessment.completed": "lifecycle",
	"assessment.result":    "results",
	"credit.consumed":      "entitlements",
}

// produce finalizes every batch. Every third one is announced once more by a part of the service that doesn't ask the guard:
// its events have ids of their own.
func (w *world) produce(ctx context.Context) error {
	fin, err := finalize.NewSQL(w.db, &finalize.Config{Aggregate: "batch", Logger: quiet(), Guard: guard.All(
		guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE")}, guard.Ledger{})})
	if err != nil {
		return err
	}
	if err := fin.Migrate(ctx); err != nil {
		return err
	}
	for i := range batches {
		id := batchID(i)
		var events []outbox.Event
		for eventType := range consumerOf {
			events = append(events, outbox.Event{Type: eventType, Payload: fmt.Appendf(nil, `{"batch":%q}`, id)})
		}
		if _, err := fin.Settle(ctx, guard.Text(id), "threshold", finalize.Outcome{State: "COMPLETE_STABLE", Events: events}); err != nil {
			return err
		}
		if i%3 == 0 {
			if err := w.announce(ctx, id, events); err != nil {
				return err
			}
		}
	}
	return nil
}

// announce puts events without a guard and without dedup keys.
func (w *world) announce(ctx context.Context, batch string, events []outbox.Event) error {
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for i := range events {
		events[i].AggregateType, events[i].AggregateID = "batch", batch
	}
	if _, err := outbox.Put(ctx, w.outboxTx(tx), events...); err != nil {
		return err
	}
	return tx.Commit()
}

func (w *world) outboxTx(tx *sql.Tx) endstate.Tx {
	if sqlite(w.dsn) {
		return endstate.SQLiteTx(tx)
	}
	return endstate.PostgresTx(tx)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
