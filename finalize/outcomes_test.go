package finalize_test

import (
	"context"
	"errors"
	"testing"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/outbox"
)

// completed is the usual outcome.
func completed() finalize.Outcome {
	return finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{{Type: "batch.completed", Payload: []byte(`{"ok":true}`)}}}
}

// quietly is an outcome without events.
func quietly() finalize.Outcome { return finalize.Outcome{State: "ERROR_QUIET"} }

// complete is a callback that writes a row of its own and completes the batch.
func complete(id string) work {
	return func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
		return completed(), write(ctx, tx, id)
	}
}

// write is a callback's own write.
func write(ctx context.Context, tx endstate.Tx, id string) error {
	_, err := tx.Exec(ctx, "INSERT INTO writes (batch, note) VALUES ($1, 'mine')", id)
	return err
}

// never is a callback that must not run.
func never(t *testing.T) work {
	return func(context.Context, endstate.Tx) (finalize.Outcome, error) {
		t.Error("the callback of a loser ran")
		return finalize.Outcome{}, errors.New("the callback of a loser ran")
	}
}
