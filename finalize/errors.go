package finalize

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/guard"
)

// Errors that callers decide on. They arrive wrapped.
var (
	// ErrNotReady is returned by a Func to say that it is too early. Do and DoTx hand it on; nothing was written.
	ErrNotReady = errors.New("finalize: not ready")

	// ErrBusy is returned when another call held the aggregate for longer than ClaimTimeout. Nothing was written. Where the database
	// itself didn't answer, as on a connection that has gone silent, it says so.
	ErrBusy = errors.New("finalize: another call holds the aggregate")

	// ErrEventConflict is returned when an event of the outcome has a dedup key (or id) that another event holds. All was
	// rolled back, the state too. The error is an EventConflictError.
	ErrEventConflict = errors.New("finalize: event conflict")

	// ErrInProgress is returned by DoPrepared when another call holds the lock: at once with ReturnInProgress, else after
	// LockConfig.Timeout. Nothing was written. The error is an InProgressError.
	ErrInProgress = errors.New("finalize: another call is preparing the aggregate")

	// ErrLockUnavailable is returned by DoPrepared with FailClosed when the lock service is away. Nothing was written.
	ErrLockUnavailable = errors.New("finalize: lock unavailable")

	// ErrTxEnded is returned when the callback ended the transaction that it was given (or, on SQLite, swallowed an error
	// after which the database had rolled it back), or DoTx was given one that had ended. This call did not finalize the
	// aggregate.
	ErrTxEnded = errors.New("finalize: the transaction has ended")

	// ErrTxAborted is returned when the transaction was aborted by an error that the callback swallowed, or DoTx was given
	// an aborted one. Nothing was written.
	ErrTxAborted = errors.New("finalize: the transaction is aborted")

	// ErrTxOwned is returned by Commit and Rollback of the transaction that a callback gets: the finalizer ends it.
	ErrTxOwned = errors.New("finalize: the finalizer ends this transaction")

	// ErrOutcomeUnknown is returned when a COMMIT got no answer and the database couldn't tell in time what became of it,
	// or nothing durable could (a guard without a ledger, and no events). Calling again is safe: the guard decides.
	ErrOutcomeUnknown = errors.New("finalize: outcome unknown, calling again is safe")

	// ErrNested is returned by a call that is made in the callback of another one, with its context, on the same pool or *sql.DB:
	// it would wait for itself, or commit by itself though the outer one rolls back. DoTx with the callback's tx, for another
	// aggregate, commits with it.
	ErrNested = errors.New("finalize: called in the callback of another call")

	// ErrPoolExhausted is returned when a call got no connection of the pool within ClaimTimeout, since all were taken: by callbacks
	// that take long, or that wait for a second connection themselves. The aggregate may be free. Nothing was written.
	ErrPoolExhausted = errors.New("finalize: every connection of the pool is taken")

	// ErrTenant is returned when it isn't known whose aggregate a call is about: Config.Tenant failed or named nobody, or there is
	// none though the database's connections differ in what the names of the guard's and the outbox's tables mean. Nothing was
	// written.
	ErrTenant = errors.New("finalize: the tenant of the call is unknown")
)

// EventConflictError says which event met which earlier one.
type EventConflictError struct {
	Ref      guard.Ref
	Type     string    // the event's type
	DedupKey string    // the key that is held
	HeldBy   uuid.UUID // the id of the event that holds it
}

func (e *EventConflictError) Error() string {
	return fmt.Sprintf("%v: %v: event %q has dedup key %q, which event %s holds; all was rolled back; if both events are wanted, give each a DedupKey of its own", ErrEventConflict, e.Ref, e.Type, e.DedupKey, e.HeldBy)
}

// Is makes errors.Is(err, ErrEventConflict) hold.
func (e *EventConflictError) Is(target error) bool { return target == ErrEventConflict }

// errEvents marks an error as raised by the insert of the events.
var errEvents = errors.New("write events")

// errUnanswered marks the error of a COMMIT whose effect is not known.
var errUnanswered = errors.New("commit got no answer")

// errGone marks a transaction that is known not to have committed, or that met a state that changed under it: run it again.
var errGone = errors.New("transaction did not commit")

// errNoConnection ends the wait for a connection.
var errNoConnection = errors.New("no connection within ClaimTimeout")
