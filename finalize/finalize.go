package finalize

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// Finalizer is the one door through which aggregates of one type reach a terminal state. Tx is the transaction that
// callbacks get: pgx.Tx from New, *sql.Tx from NewSQL, an ORM's own from NewORM. It is safe for concurrent use; make one for each aggregate type.
type Finalizer[Tx any] struct {
	*core
	db database[Tx]
}

// core is what doesn't depend on the kind of transaction.
type core struct {
	cfg   Config
	made  time.Time
	cache *cache
	hot   *hot
	turns turns
	pool  any // the *pgxpool.Pool or *sql.DB
	lack  lack
	path  *searchPath // nil where connections can't differ, or callers are told apart
}

func newCore(cfg Config) (*core, error) {
	f := &core{cfg: cfg, made: time.Now(), turns: turns{keys: map[guard.Ref][]chan turn{}}}
	var err error
	if f.cache, err = newCache(cfg.Cache); err != nil {
		return nil, fmt.Errorf("%w: Cache: %w", ErrConfig, err)
	}
	if f.hot, err = newHot(cfg.Hot); err != nil {
		return nil, fmt.Errorf("%w: Hot: %w", ErrConfig, err)
	}
	return f, nil
}

// lack is what the database lacks, which a thousand calls that fail at once needn't ask a thousand times.
type lack struct {
	mu    sync.Mutex
	asked time.Time
	err   error
}

func (l *lack) ask(check func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil || time.Since(l.asked) > time.Second {
		l.err = check()
		l.asked = time.Now()
	}
	return l.err
}

// now is the time since the finalizer was made, by a clock that nobody sets.
func (f *core) now() time.Duration { return time.Since(f.made) }

// New returns a Finalizer on a pgx pool. It sends nothing: call Migrate or Check to look at the database.
func New(pool *pgxpool.Pool, cfg *Config) (*Finalizer[pgx.Tx], error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if pool == nil {
		return nil, fmt.Errorf("%w: pool is nil", ErrConfig)
	}
	if c.Dialect == string(sqltx.SQLite) {
		return nil, fmt.Errorf("%w: Dialect is sqlite, but a pgx pool is PostgreSQL; use NewSQL", ErrConfig)
	}
	if err := c.checkHooks(pool.Config()); err != nil {
		return nil, err
	}
	f, err := newCore(c)
	if err != nil {
		return nil, err
	}
	f.pool = pool
	return &Finalizer[pgx.Tx]{f, newPgxDB(pool, c)}, nil
}

// Func is the work of one finalization. It runs inside a transaction that holds the aggregate, and what it writes through
// tx commits with the outcome or not at all. It must not end tx. It returns the outcome; or ErrNotReady (wrapped or not),
// upon which nothing is written and the next trigger may win; or another error, which is handed to the caller likewise. It
// may run several times in one call, when the database breaks transactions off, but commits once at most: effects outside
// of tx belong into events.
type Func[Tx any] func(ctx context.Context, tx Tx) (Outcome, error)

// Errors that callers decide on. They arrive wrapped.
var (
	// ErrNotReady is returned by a Func to say that it is too early. Do and DoTx hand it on; nothing was written.
	ErrNotReady = errors.New("finalize: not ready")

	// ErrBusy is returned when another call held the aggregate for longer than ClaimTimeout. Nothing was written.
	ErrBusy = errors.New("finalize: another call holds the aggregate")

	// ErrEventConflict is returned when an event of the outcome has a dedup key (or id) that another event holds. All was
	// rolled back, the state too. The error is an EventConflictError.
	ErrEventConflict = errors.New("finalize: event conflict")

	// ErrInProgress is returned by DoPrepared when another call holds the lock, at once or after LockConfig.Timeout, as
	// OnContention says.
	// Nothing was written. The error is an InProgressError.
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
)

// EventConflictError says which event met which earlier one.
type EventConflictError struct {
	Ref      guard.Ref
	Type     string    // the event's type
	DedupKey string    // the key that is held
	HeldBy   uuid.UUID // the id of the event that holds it
}

func (e *EventConflictError) Error() string {
	return fmt.Sprintf("%v: %v: event %q has dedup key %q, which event %s holds; all was rolled back", ErrEventConflict, e.Ref, e.Type, e.DedupKey, e.HeldBy)
}

// Is makes errors.Is(err, ErrEventConflict) hold.
func (e *EventConflictError) Is(target error) bool { return target == ErrEventConflict }

// Do finalizes the aggregate if it is open and fn says so. It opens a transaction, claims the aggregate, runs fn, settles
// the state, writes the events, and commits; or it finds the aggregate final and returns the winner's receipt without
// running fn. When an error is returned, nothing was written, except for ErrOutcomeUnknown.
//
// A repeat on a key that this process knows to be final is answered from memory: see CacheConfig. Calls of one process for
// one key don't race: one goes to the database, and the others wait for what it learns. If it fails or isn't ready, the next
// one goes with its own fn. Each call's context is its own.
func (f *Finalizer[Tx]) Do(ctx context.Context, key guard.Key, trigger Trigger, fn Func[Tx]) (Receipt, error) {
	ref, err := f.enter(ctx, key)
	if err != nil {
		return Receipt{}, err
	}
	if known, now := f.known(ref, trigger); known != nil && fn != nil {
		return f.repeated(ctx, ref, trigger, known, now, false), nil
	}
	a, err := f.newAttempt(ref, trigger)
	if err == nil && fn == nil {
		err = fmt.Errorf("finalize: %v: fn is nil", a.ref)
	}
	if err != nil {
		return Receipt{}, err
	}
	ctx = f.begin(ctx, a.call())
	return f.end(ctx, a)(f.inTurn(ctx, a, func() (Receipt, error) {
		return f.retry(ctx, a, func() (Receipt, error) {
			return f.attempt(ctx, a, func() (session[Tx], guard.Record, error) { return f.db.claim(ctx, a) }, f.traced(a, fn))
		})
	}))
}

// DoTx is Do inside the caller's transaction, in a savepoint: ErrNotReady and errors undo what fn wrote, and the
// transaction stays usable unless the database broke it off. Won means "if you commit". Serialization failures and
// deadlocks are handed on, since only the caller can run the transaction again. Locks are held until the caller ends it,
// so keep what follows short.
func (f *Finalizer[Tx]) DoTx(ctx context.Context, tx Tx, key guard.Key, trigger Trigger, fn Func[Tx]) (Receipt, error) {
	ref, err := f.enterTx(ctx, key)
	if err != nil {
		return Receipt{}, err
	}
	a, err := f.newAttempt(ref, trigger)
	if err == nil && fn == nil {
		err = fmt.Errorf("finalize: %v: fn is nil", a.ref)
	}
	if err != nil {
		return Receipt{}, err
	}
	ctx = f.begin(ctx, a.call())
	a.number = 1
	return f.end(ctx, a)(f.attempt(ctx, a, func() (session[Tx], guard.Record, error) { return f.db.claimIn(ctx, tx, a) }, f.traced(a, fn)))
}

// Settle is Do with the outcome known beforehand. On pgx, with the guards of this library, it is one statement. Unlike a
// losing Do, a losing Settle can compare: see Receipt.Differs.
func (f *Finalizer[Tx]) Settle(ctx context.Context, key guard.Key, trigger Trigger, outcome Outcome) (Receipt, error) {
	a, r, err := f.ready(ctx, key, trigger, outcome)
	if a == nil {
		return r, err
	}
	return f.settleOne(f.begin(ctx, a.call()), a, outcome)
}

// ready makes a Settle's attempt; or none, if the call is answered from memory or something is wrong with it.
func (f *Finalizer[Tx]) ready(ctx context.Context, key guard.Key, trigger Trigger, outcome Outcome) (*attempt, Receipt, error) {
	ref, err := f.enter(ctx, key)
	if err != nil {
		return nil, Receipt{}, err
	}
	known, now := f.known(ref, trigger)
	if known != nil && !f.cfg.CompareEvents {
		differs := known.receipt.State != outcome.State
		if !differs || f.checkState(ref, outcome.State) == nil {
			return nil, f.repeated(ctx, ref, trigger, known, now, differs), nil
		}
	}
	a, err := f.newAttempt(ref, trigger)
	if err == nil {
		err = f.prepare(ctx, a, outcome)
	}
	if err != nil {
		return nil, Receipt{}, err
	}
	if known != nil {
		return nil, f.repeated(ctx, ref, trigger, known, now, f.differs(a, known.receipt)), nil
	}
	return a, Receipt{}, nil
}

// settleOne settles an attempt that is ready.
func (f *Finalizer[Tx]) settleOne(ctx context.Context, a *attempt, outcome Outcome) (Receipt, error) {
	r, err := f.inTurn(ctx, a, func() (Receipt, error) {
		return f.retry(ctx, a, func() (Receipt, error) { return f.settle(ctx, a, outcome) })
	})
	r.Differs = err == nil && !r.Won && f.differs(a, r)
	return f.end(ctx, a)(r, err)
}

// settle is one attempt of Settle.
func (f *Finalizer[Tx]) settle(ctx context.Context, a *attempt, outcome Outcome) (Receipt, error) {
	if joined, ok := f.db.(settler); ok {
		if r, handled, err := joined.settle(ctx, f.core, a); handled {
			return r, err
		}
	}
	return f.attempt(ctx, a, func() (session[Tx], guard.Record, error) { return f.db.claim(ctx, a) },
		func(context.Context, Tx) (Outcome, error) { return outcome, nil })
}

// database is one of the two ways to a database.
type database[Tx any] interface {
	// claim opens a transaction and claims the aggregate in it. A final record may come without a session.
	claim(ctx context.Context, a *attempt) (session[Tx], guard.Record, error)
	// claimIn does the same in a savepoint of the caller's transaction.
	claimIn(ctx context.Context, tx Tx, a *attempt) (session[Tx], guard.Record, error)
	// look asks, outside of any attempt's transaction, what became of one.
	look(ctx context.Context, a *attempt) (sighting, error)
	// query runs fn on one connection.
	query(ctx context.Context, fn func(endstate.Querier) error) error
	// querier is the pool, which takes a connection for each statement.
	querier() endstate.Querier
	// taken is how many of the pool's connections are in use, of how many; 0: of any number.
	taken() (taken, of int)
	migrate(ctx context.Context, fn func(endstate.Tx) error) error
}

// settler is a database that can settle without a session; handled is false where the guard has no plan for it.
type settler interface {
	settle(ctx context.Context, f *core, a *attempt) (r Receipt, handled bool, err error)
}

// session is one attempt's transaction, or its savepoint in the caller's.
type session[Tx any] interface {
	// tx is what the callback gets.
	tx() Tx
	// finish settles, writes the events and commits (or releases the savepoint), so that all or none of it happens.
	finish(ctx context.Context, a *attempt) (guard.Record, error)
	// outside is where to ask once the session was rolled back: the caller's transaction, or the database.
	outside() endstate.Querier
	// stale gives the connection up if err says that it can only read; see stale.go.
	stale(ctx context.Context, a *attempt, err error) error
	// callers reports whether it is a savepoint.
	callers() bool
	// rollback undoes all unless finish succeeded, also when ctx has ended. It is safe to call twice.
	rollback(ctx context.Context)
}

var escape = strings.NewReplacer("%", "%25", "/", "%2F", "#", "%23")

const rollbackTimeout = 5 * time.Second

// errEvents marks an error as raised by the insert of the events.
var errEvents = errors.New("write events")

// errUnanswered marks the error of a COMMIT whose effect is not known.
var errUnanswered = errors.New("commit got no answer")

// errGone marks a transaction that is known not to have committed, or that met a state that changed under it: run it again.
var errGone = errors.New("transaction did not commit")

// end reports how a call ended, and gives its error a context.
func (f *Finalizer[Tx]) end(ctx context.Context, a *attempt) func(Receipt, error) (Receipt, error) {
	return func(r Receipt, err error) (Receipt, error) {
		switch {
		case err == nil && r.Won:
			f.won(ctx, a, r)
		case err == nil:
			f.lost(ctx, a.call(), r)
		case errors.Is(err, ErrNotReady):
			f.notReady(ctx, a)
			return Receipt{}, err
		default:
			err = f.explain(ctx, a, err)
			f.failed(ctx, a, err)
			return Receipt{}, err
		}
		return r, nil
	}
}

// keyChecker is a guard that can tell whether a key is of the kind that its columns have.
type keyChecker interface {
	CheckKey(ctx context.Context, q endstate.Querier, key guard.Key) error
}

// explain adds what the database lacks, or what is wrong with the key, to an error that may come from it.
func (f *Finalizer[Tx]) explain(ctx context.Context, a *attempt, err error) error {
	if g, ok := f.cfg.Guard.(keyChecker); ok && sqltx.State(err) == sqltx.UndefinedFunction {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		unfit := f.db.query(ctx, func(q endstate.Querier) error { return g.CheckKey(ctx, q, a.ref.Key) })
		if errors.Is(unfit, guard.ErrInvalidKey) {
			err = fmt.Errorf("%w (%w)", unfit, err)
		}
	}
	if sqltx.Incomplete(err) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		if lack := f.lack.ask(func() error { return f.Check(ctx) }); errors.Is(lack, guard.ErrSchema) || errors.Is(lack, outbox.ErrSchema) {
			err = fmt.Errorf("%w (%w)", lack, err)
		}
	}
	if sqltx.State(err) == sqltx.ReadOnly {
		err = fmt.Errorf("%w; finalizing needs the primary, with default_transaction_read_only off", err)
	}
	return fmt.Errorf("finalize: %v, trigger %s: %w", a.ref, a.Trigger, err)
}
