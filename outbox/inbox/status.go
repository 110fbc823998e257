package inbox

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/endstate-go/endstate/outbox"
)

// Status is the way of a consumer that moves an aggregate of its own to a terminal state: the state machine refuses the
// second transition, and so the effect happens exactly once, whatever the ids of the events that ask for it.
//
// It is a function that runs effect inside the transaction that moves the aggregate, unless that is in a terminal state, and
// returns whether it moved it, and the cause that was recorded by whoever did. Package finalize does all of that:
//
//	inbox.Status[pgx.Tx](func(ctx context.Context, event outbox.Event, cause string, effect func(context.Context, pgx.Tx) error) (bool, string, error) {
//		receipt, err := fin.Do(ctx, guard.Text(event.AggregateID), finalize.Trigger(cause), func(ctx context.Context, tx pgx.Tx) (finalize.Outcome, error) {
//			return finalize.Outcome{State: "COMPLETE"}, effect(ctx, tx)
//		})
//		return receipt.Won, string(receipt.Trigger), err
//	})
//
// With a ledger, the recorded cause tells a repeat (ErrPayloadMismatch if its content differs) from another event that came
// too late. With a status column alone it is empty, and the function itself can tell events apart only by the state that
// they ask for.
//
// Concurrent deliveries wait for one another as the guard says, at last with finalize.ErrBusy: wrapped in ErrInProgress it
// tells the sender of a webhook to come back, with 503, where other errors are 500. An effect may return
// finalize.ErrNotReady, after which nothing was written and the event has to be delivered again. Failed attempts are counted
// by what delivers: the sender of a webhook, the broker.
type Status[Tx any] func(ctx context.Context, event outbox.Event, cause string, effect func(ctx context.Context, tx Tx) error) (moved bool, by string, err error)

// Apply implements Way.
func (move Status[Tx]) Apply(ctx context.Context, event outbox.Event, fn TxFunc[Tx]) (Result, error) {
	d, err := newDelivery("status", event, nil)
	if err == nil && fn == nil {
		err = fmt.Errorf("inbox: %v: the function is nil", d)
	}
	if err != nil {
		return Result{}, err
	}
	moved, by, err := move(ctx, event, d.cause(), func(ctx context.Context, tx Tx) error { return fn(ctx, tx, event) })
	switch {
	case errors.Is(err, ErrSkip):
		return Result{Outcome: Skipped}, nil
	case err != nil:
		return Result{}, fmt.Errorf("inbox: %v: %w", d, err)
	case moved:
		return Result{Outcome: Applied, First: event.ID}, nil
	}
	first, known := caused(by)
	if !known {
		return Result{Outcome: Repeated}, nil
	}
	result, _, err := d.judge([]record{first})
	return result, err
}

// cause is how a delivery is named as a trigger, in at most 120 bytes: its event's id and digest.
func (d *delivery) cause() string {
	return "event " + d.event.ID.String() + " " + hex.EncodeToString(d.digest)
}

// caused reads a cause; known is false for another trigger.
func caused(by string) (r record, known bool) {
	id, digest, found := strings.Cut(strings.TrimPrefix(by, "event "), " ")
	sum, err := hex.DecodeString(digest)
	if !found || err != nil || !strings.HasPrefix(by, "event ") {
		return record{}, false
	}
	return record{key: id, id: id, digest: sum, state: handled}, true
}
