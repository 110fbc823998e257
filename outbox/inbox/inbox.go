package inbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"

	"github.com/endstate-go/endstate/internal/isnil"
	"github.com/endstate-go/endstate/outbox"
)

// Handler handles one delivery of an event, of which there may be many. A nil error means that the delivery is done with:
// the event was handled now, or before, was skipped, or is kept as a dead letter. After any other error, nothing of the event is lost, and
// it has to be delivered again unless the error is Permanent. It is what the receivers of outbox/webhook, outbox/redisstream,
// outbox/natsjs and outbox/kafka call, and safe for concurrent use.
type Handler func(ctx context.Context, event outbox.Event) (Result, error)

// Within returns h with a bound on each call: its context ends after timeout, and an error that comes of that says so. It is for what
// delivers and has no deadline of its own: a handler whose database's connection has gone silent might never return.
func (h Handler) Within(timeout time.Duration) Handler {
	if h == nil {
		return nil // which whoever is given it refuses
	}
	late := fmt.Errorf("inbox: the handler took longer than %v: %w", timeout, context.DeadlineExceeded)
	return func(ctx context.Context, event outbox.Event) (Result, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, late)
		defer cancel()
		result, err := h(ctx, event)
		if err != nil && context.Cause(ctx) == late && !errors.Is(err, late) {
			err = fmt.Errorf("%w: %w", late, err)
		}
		return result, err
	}
}

// Way is one of the ways to handle each event once: *Table, Status, *Claims, or your own. F is the function that it guards:
// TxFunc or Func, or the forms of these that return a result.
type Way[F any] interface {
	// Apply calls fn for the event, unless it was handled before.
	Apply(ctx context.Context, event outbox.Event, fn F) (Result, error)
}

// Handle makes a Handler of a way and the function that it guards.
//
//	inbox.Handle(table, func(ctx context.Context, tx pgx.Tx, event outbox.Event) error { … })
//	inbox.Handle(claims, func(ctx context.Context, event outbox.Event) error { … })
func Handle[F any](way Way[F], fn F) Handler {
	if isnil.Any(way) {
		return func(context.Context, outbox.Event) (Result, error) {
			return Result{}, errors.New("inbox: Handle: the way is nil")
		}
	}
	return func(ctx context.Context, event outbox.Event) (Result, error) { return way.Apply(ctx, event, fn) }
}

// TxFunc is the work that one event causes. What it writes through tx commits with the record that the event was handled, or
// not at all. It MUST NOT end tx, and its effects outside of tx aren't covered: it may run again.
type TxFunc[Tx any] func(ctx context.Context, tx Tx, event outbox.Event) error

// TxResultFunc is a TxFunc that returns what repeats of the event are answered with.
type TxResultFunc[Tx any] func(ctx context.Context, tx Tx, event outbox.Event) ([]byte, error)

// Func is the work that one event causes, without a transaction of the inbox.
type Func func(ctx context.Context, event outbox.Event) error

// ResultFunc is a Func that returns what repeats of the event are answered with.
type ResultFunc func(ctx context.Context, event outbox.Event) ([]byte, error)

// Outcome is what became of a delivery.
type Outcome int

// The outcomes.
const (
	// Applied means that this delivery had the effect.
	Applied Outcome = iota + 1
	// Repeated means that an earlier one had it, and this one none.
	Repeated
	// DeadLettered means that the event failed too often, or permanently, and is kept: see Table.DeadLetters.
	DeadLettered
	// Skipped means that the consumer has nothing to do with the event: it isn't of its Types, or ErrSkip said so.
	Skipped
	// Collided means that another event, with another id and other content, had the effect before: under the same key, or on
	// the same aggregate. This one had none. If it should have had one, the key names too much: let it include the event's
	// type.
	Collided
)

func (o Outcome) String() string {
	switch o {
	case Applied:
		return "applied"
	case Repeated:
		return "repeated"
	case DeadLettered:
		return "dead-lettered"
	case Skipped:
		return "skipped"
	case Collided:
		return "collided"
	}
	return "none"
}

// Result tells what became of a delivery.
type Result struct {
	Outcome Outcome
	// First is the id of the event that was handled. It is another than the delivered event's where a business key told
	// that both mean the same. It is uuid.Nil where the way doesn't know it.
	First uuid.UUID
	// Value is what the function returned when the event was handled; nil for functions that return nothing.
	Value []byte
}

// Errors that callers decide on. They arrive wrapped.
var (
	// ErrInProgress is returned when another delivery of the event is being handled and hasn't finished within the way's
	// Wait. Deliver it again later.
	ErrInProgress = errors.New("inbox: another delivery of the event is in progress")

	// ErrPayloadMismatch is returned for an event whose id an event of other content has had. Nothing was applied. It is the
	// producer's mistake, and no repetition fixes it.
	ErrPayloadMismatch = errors.New("inbox: an event of this id has had another payload")

	// ErrInvalidEvent is returned for an event that has neither an id nor a business key, whose business key can't be used, or that
	// couldn't be kept as a dead letter (a name that isn't UTF-8, a year that isn't four digits). Nothing was applied, and repeating
	// doesn't help.
	ErrInvalidEvent = errors.New("inbox: invalid event")

	// ErrNotFound is returned by Table.Retry and Table.Discard when there is no such dead letter.
	ErrNotFound = errors.New("inbox: no such dead letter")

	// ErrUnavailable is returned when the store of claims doesn't answer and the way fails closed. Deliver the event again later.
	ErrUnavailable = errors.New("inbox: the store of claims is unavailable")

	// ErrClaimLost is the cause with which a handler's context ends when its claim went to another delivery.
	ErrClaimLost = errors.New("inbox: the claim was lost")

	// ErrTxOwned is returned by Commit and Rollback of the transaction that a function gets: the inbox ends it.
	ErrTxOwned = errors.New("inbox: the inbox ends this transaction")

	// ErrTxEnded is returned when the function ended the transaction that it was given. What it wrote may be committed
	// without a record, and be repeated.
	ErrTxEnded = errors.New("inbox: the transaction has ended")

	// ErrTxAborted is returned when the transaction was aborted by an error that the function swallowed.
	ErrTxAborted = errors.New("inbox: the transaction is aborted")

	// ErrConfig is returned for a configuration that doesn't make sense; the message names the field.
	ErrConfig = errors.New("inbox: invalid configuration")

	// ErrSchema is returned when the database lacks the inbox's table, a column or an index.
	ErrSchema = errors.New("inbox: schema is incomplete")
)

// Permanent reports whether a Handler's error is one that no repetition fixes: ErrPayloadMismatch, ErrInvalidEvent, or
// what a function marked by outbox.Permanent.
func Permanent(err error) bool {
	return errors.Is(err, ErrPayloadMismatch) || errors.Is(err, ErrInvalidEvent) || errors.Is(err, outbox.ErrPermanent)
}

// until calls try until it returns something else than retry, or wait is over; a negative wait is none. Nothing is held
// meanwhile, so deliveries that wait for one another can't use up a pool.
func until(ctx context.Context, wait time.Duration, try func() (retry bool, err error)) error {
	deadline := time.Now().Add(wait)
	var pause *backoff.ExponentialBackOff // made when the first try was in vain, which it rarely is
	for {
		retry, err := try()
		if !retry {
			return err
		}
		if pause == nil {
			pause = newPause(100 * time.Millisecond)
		}
		next := pause.NextBackOff()
		if time.Now().Add(next).After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(next):
		}
	}
}

func newPause(longest time.Duration) *backoff.ExponentialBackOff {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 2*time.Millisecond, longest
	return pause
}
