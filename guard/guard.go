package guard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate"
)

// Errors that callers decide on. They arrive wrapped.
var (
	// ErrNotFound is returned when the aggregate has no row.
	ErrNotFound = errors.New("guard: aggregate not found")

	// ErrNotOpen is returned by Settle when the aggregate is no longer open.
	ErrNotOpen = errors.New("guard: aggregate is not open")

	// ErrRewritten is returned when the row says, after it was moved to the state that was asked for, something else: a
	// trigger, a rule or a generated column changed it. All is rolled back, since the events describe the state that was
	// asked for. The error is a TransitionError.
	ErrRewritten = errors.New("guard: the database changed the state")

	// ErrRefused is returned when the aggregate is open and held, and still its row took no update: a BEFORE trigger returned
	// NULL, a rule replaced the statement, or row security shows the row and doesn't let it change. Nothing was written, and
	// the next call would end the same. The error is a TransitionError.
	ErrRefused = errors.New("guard: the database refused the transition")

	// ErrNotTerminal is returned for a target state that isn't one of the guard's terminal states.
	ErrNotTerminal = errors.New("guard: target state is not terminal")

	// ErrInvalidKey is returned for a key that can't be used.
	ErrInvalidKey = errors.New("guard: invalid key")

	// ErrAnomaly is returned when guards that are kept together disagree; see AnomalyError.
	ErrAnomaly = errors.New("guard: guards disagree")

	// ErrConfig is returned for a guard whose fields don't make sense.
	ErrConfig = errors.New("guard: invalid configuration")

	// ErrSchema is returned when the database lacks a table, column or index that the guard needs.
	ErrSchema = errors.New("guard: schema is incomplete")
)

// Ref names one aggregate: whose it is, its type and its key. Batch 1 and invoice 1 are two aggregates, and so are batch 1 of
// two tenants. Refs are comparable, so == and maps work.
type Ref struct {
	Tenant    string // as finalize.Config.Tenant says; empty without it. What the guards here store doesn't contain it
	Aggregate string // the aggregate type's name, such as "batch"
	Key       Key
}

// String returns "batch 42", or "batch 42 of tenant acme", for logs and errors.
func (r Ref) String() string {
	s := r.Aggregate + " " + r.Key.String()
	if r.Tenant != "" {
		s += " of tenant " + r.Tenant
	}
	return s
}

// Record is what a guard knows of an aggregate.
type Record struct {
	// Final reports whether the aggregate is in a terminal state. Otherwise it is open.
	Final bool
	// State is its state; empty for NULL, and for an open aggregate of which the guard keeps no state.
	State string
	// Provenance tells who finalized it. It is nil while the aggregate is open, and for guards that don't keep it.
	Provenance *Provenance
	// XID is the id of the transaction that claimed the aggregate (pg_current_xact_id), set by a Claim that found it open.
	// With it a lost COMMIT is resolved without waiting for other transactions' locks; a guard of your own may leave it empty.
	XID string
}

// Provenance is who finalized an aggregate, when, and by which attempt.
type Provenance struct {
	Trigger string    // the trigger's name
	At      time.Time // by the database's clock
	Token   uuid.UUID // of the attempt that won: what tells a winner whose COMMIT was lost that it won
	Digest  []byte    // SHA-256 of the outcome (state and events), 32 bytes
}

// Transition is a move to a terminal state.
type Transition struct {
	State   string // the terminal state
	Trigger string // what caused it
	Token   uuid.UUID
	Digest  []byte
}

// Guard decides, inside a transaction, whether an aggregate may be finalized, and moves it to its terminal state. Status
// and Ledger are guards, All combines guards, and a service may write its own; guardtest.Run tests it. One that embeds a Status
// or a Ledger is its own too: finalize asks its methods, a statement each, and joins no SQL of the embedded guard's.
// Implementations must be safe for concurrent use by transactions of their own.
type Guard interface {
	// Claim returns the aggregate's record and, if it is open, locks it: no other transaction's Claim of it may return open
	// before tx has ended. It MUST decide on what is committed after it waited for another transaction, MUST write nothing
	// to, and take no lock on, an aggregate that is final, and MUST return ErrNotFound when there is no such aggregate. On
	// SQLite its first statement MUST be a write (of no row), so that it waits for other writers before it reads.
	Claim(ctx context.Context, tx endstate.Tx, ref Ref) (Record, error)

	// Settle moves a claimed aggregate to its terminal state and returns its record as the database now has it: finalize
	// rolls back if that isn't what was asked for. It MUST compare and set: when the aggregate is no longer open it writes
	// nothing and returns ErrNotOpen, and for a state that isn't terminal it returns ErrNotTerminal.
	Settle(ctx context.Context, tx endstate.Tx, ref Ref, to Transition) (Record, error)
}

// Reader is what a Guard may implement to be asked without a transaction and without a lock. Without it, finalize asks
// by Claim and rolls back.
type Reader interface {
	// Read returns the aggregate's record as committed, or ErrNotFound.
	Read(ctx context.Context, q endstate.Querier, ref Ref) (Record, error)
}

// Validator is what a Guard may implement to have its configuration checked when a finalizer is made. The error names the
// field and wraps ErrConfig.
type Validator interface{ Validate() error }

// Checker is what a Guard may implement to say what the database lacks. The error names the table, column or index, says
// what to do, and wraps ErrSchema.
type Checker interface {
	Check(ctx context.Context, q endstate.Querier) error
}

// AnomalyError says that guards which are kept together disagree about an aggregate: its status is terminal and the ledger
// has no entry (code that bypassed the ledger set it), the reverse, or both are final in different states. Nothing was
// written. Fix it through the guard that is open alone: a finalizer with just that guard settles it in the other's state.
type AnomalyError struct {
	Ref     Ref
	Records []GuardRecord // one for each guard, in the order given to All
}

// GuardRecord is one guard's view in an AnomalyError.
type GuardRecord struct {
	Guard  string // such as "status batches" or "ledger endstate_ledger"
	Record Record
}

func (e *AnomalyError) Error() string {
	s := fmt.Sprintf("%v about %v:", ErrAnomaly, e.Ref)
	for i, r := range e.Records {
		if i > 0 {
			s += ","
		}
		state := "open"
		if r.Record.Final {
			state = fmt.Sprintf("final in state %q", r.Record.State)
		}
		s += " " + r.Guard + " says " + state
	}
	return s + "; nothing was written; settle the open one through a finalizer that has just that guard"
}

// Is makes errors.Is(err, ErrAnomaly) hold.
func (e *AnomalyError) Is(target error) bool { return target == ErrAnomaly }
