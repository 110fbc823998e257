package finalize

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/internal/uuid7"
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

	digests bool // something keeps the outcome's digest
	ids     uuid7.Source
	losses  losses
}

func newCore(cfg Config, pool any) *core {
	return &core{
		cfg: cfg, made: time.Now(), pool: pool, cache: newCache(cfg.Cache), hot: newHot(cfg.Hot), turns: turns{keys: map[entryID][]chan turn{}},
		digests: cfg.guards.KeepDigests(),
	}
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
	return &Finalizer[pgx.Tx]{newCore(c, pool), newPgxDB(pool, c)}, nil
}

// Func is the work of one finalization. It runs inside a transaction that holds the aggregate, and what it writes through
// tx commits with the outcome or not at all. It must not end tx. It returns the outcome; or ErrNotReady (wrapped or not),
// upon which nothing is written and the next trigger may win; or another error, which is handed to the caller likewise. It
// may run several times in one call, when the database breaks transactions off, but commits once at most: effects outside
// of tx belong in events.
type Func[Tx any] func(ctx context.Context, tx Tx) (Outcome, error)

// Do finalizes the aggregate if it is open and fn says so. It opens a transaction, claims the aggregate, runs fn, settles
// the state, writes the events, and commits; or it finds the aggregate final and returns the winner's receipt without
// running fn. When an error is returned, nothing was written, except for ErrOutcomeUnknown.
//
// A repeat on a key that this process knows to be final is answered from memory: see CacheConfig. Calls of one process for
// one key don't race: one goes to the database, and the others wait for what it learns. If it fails or isn't ready, the next
// one goes with its own fn. Each call's context is its own.
func (f *Finalizer[Tx]) Do(ctx context.Context, key guard.Key, trigger Trigger, fn Func[Tx]) (Receipt, error) {
	a, r, err := f.open(ctx, key, trigger, "fn", fn == nil)
	if a == nil {
		return r, err
	}
	return f.run(f.begin(ctx, a), a, f.traced(a, fn))
}

// DoTx is Do inside the caller's transaction, in a savepoint: ErrNotReady and errors undo what fn wrote, and the
// transaction stays usable unless the database broke it off. Won means "if you commit". Serialization failures and
// deadlocks are handed on, since only the caller can run the transaction again. Locks are held until the caller ends it,
// so keep what follows short.
func (f *Finalizer[Tx]) DoTx(ctx context.Context, tx Tx, key guard.Key, trigger Trigger, fn Func[Tx]) (Receipt, error) {
	ref, err := f.enterTx(ctx, key, trigger)
	if err != nil {
		return Receipt{}, err
	}
	a, err := f.newAttempt(nil, ref, trigger)
	if err == nil && fn == nil {
		err = fmt.Errorf("finalize: %v: fn is nil", ref)
	}
	if err != nil {
		return Receipt{}, err
	}
	ctx = f.begin(ctx, a)
	a.number = 1
	r, err := f.attempt(ctx, a, func() (session[Tx], guard.Record, error) { return f.db.claimIn(ctx, tx, a) }, f.traced(a, fn))
	return f.end(ctx, a, r, err)
}

// Settle is Do with the outcome known beforehand. On pgx, with the guards of this library, it is one statement. Unlike a
// losing Do, a losing Settle can compare: see Receipt.Differs.
func (f *Finalizer[Tx]) Settle(ctx context.Context, key guard.Key, trigger Trigger, outcome Outcome) (Receipt, error) {
	a, r, err := f.ready(ctx, &f.cfg.Outbox, nil, key, trigger, outcome)
	if a == nil {
		return r, err
	}
	return f.run(f.begin(ctx, a), a, nil)
}

// enter names the aggregate that a call is about, which has a transaction of its own, and checks the trigger.
func (f *core) enter(ctx context.Context, key guard.Key, trigger Trigger) (guard.Ref, error) {
	ref, err := f.named(ctx, key, trigger)
	if c := f.running(ctx, nil); err == nil && c != nil {
		err = fmt.Errorf("%w: %v, in that of %v: use DoTx with the callback's tx, and its outcome for its own aggregate", ErrNested, ref, c.ref)
	}
	return ref, err
}

// enterTx does so for a call in the caller's transaction.
func (f *core) enterTx(ctx context.Context, key guard.Key, trigger Trigger) (guard.Ref, error) {
	ref, err := f.named(ctx, key, trigger)
	if err == nil && f.running(ctx, &ref) != nil {
		err = fmt.Errorf("%w: %v, in its own: the callback's outcome is what finalizes it", ErrNested, ref)
	}
	return ref, err
}

func (f *core) named(ctx context.Context, key guard.Key, trigger Trigger) (guard.Ref, error) {
	ref, err := f.ref(ctx, key)
	if err == nil {
		if err = checkName(string(trigger)); err != nil {
			err = fmt.Errorf("finalize: %v: trigger %w", ref, err)
		}
	}
	return ref, err
}

// ref names an aggregate.
func (f *core) ref(ctx context.Context, key guard.Key) (guard.Ref, error) {
	ref := guard.Ref{Aggregate: f.cfg.Aggregate, Key: key}
	var err error
	if ref.Tenant, err = f.tenant(ctx); err != nil {
		return ref, fmt.Errorf("%v: %w", ref, err)
	}
	return ref, nil
}

// tenant names the tenant for whom a call is made, "" if there are none.
func (f *core) tenant(ctx context.Context) (string, error) {
	if f.cfg.Tenant == nil {
		if f.path == nil {
			return "", nil
		}
		return "", f.path.refusal(f.now())
	}
	name, err := f.cfg.Tenant(ctx)
	if err != nil {
		return "", fmt.Errorf("%w: Config.Tenant: %w", ErrTenant, err)
	}
	if err := checkName(name); err != nil {
		return "", fmt.Errorf("%w: the name that Config.Tenant returned %w", ErrTenant, err)
	}
	return name, nil
}

// open makes the attempt of a call that does some work; or none, if the call is answered from memory or something is wrong with it.
func (f *Finalizer[Tx]) open(ctx context.Context, key guard.Key, trigger Trigger, work string, missing bool) (*attempt, Receipt, error) {
	ref, err := f.enter(ctx, key, trigger)
	if err != nil {
		return nil, Receipt{}, err
	}
	if known, now := f.known(ref); known != nil && !missing {
		return nil, f.repeated(ctx, ref, trigger, known, now, false), nil
	}
	a, err := f.newAttempt(nil, ref, trigger)
	if err == nil && missing {
		a, err = nil, fmt.Errorf("finalize: %v: %s is nil", ref, work)
	}
	return a, Receipt{}, err
}

// ready makes a Settle's attempt, in the room there is for it, if any; or none, if the call is answered from memory or something is
// wrong with it.
func (f *Finalizer[Tx]) ready(ctx context.Context, w *outbox.Writer, room *attempt, key guard.Key, trigger Trigger, outcome Outcome) (*attempt, Receipt, error) {
	ref, err := f.enter(ctx, key, trigger)
	if err != nil {
		return nil, Receipt{}, err
	}
	known, now := f.known(ref)
	if known != nil && !f.cfg.CompareEvents {
		differs := known.receipt.State != outcome.State
		if !differs || f.checkState(ref, outcome.State) == nil {
			return nil, f.repeated(ctx, ref, trigger, known, now, differs), nil
		}
	}
	a, err := f.newAttempt(room, ref, trigger)
	if err == nil {
		err = f.prepare(ctx, w, a, outcome)
	}
	if err != nil {
		return nil, Receipt{}, err
	}
	if known != nil {
		return nil, f.repeated(ctx, ref, trigger, known, now, f.differs(a, known.receipt)), nil
	}
	return a, Receipt{}, nil
}

// begin is called when a call begins, and returns its context.
func (f *core) begin(ctx context.Context, a *attempt) context.Context {
	if began := f.cfg.Trace.Began; began != nil {
		return began(ctx, a.call())
	}
	return ctx
}

// run takes a call to its end. Without fn it is a Settle, and the attempt has its outcome.
func (f *Finalizer[Tx]) run(ctx context.Context, a *attempt, fn Func[Tx]) (Receipt, error) {
	r, err := f.inTurn(ctx, a, fn)
	r.Differs = fn == nil && err == nil && !r.Won && f.differs(a, r)
	return f.end(ctx, a, r, err)
}

// database is one of the two ways to a database.
type database[Tx any] interface {
	// claim opens a transaction and claims the aggregate in it. There is a session, to be rolled back, if that holds the open
	// aggregate; else the transaction has ended.
	claim(ctx context.Context, a *attempt) (session[Tx], guard.Record, error)
	// claimIn does the same in a savepoint of the caller's transaction.
	claimIn(ctx context.Context, tx Tx, a *attempt) (session[Tx], guard.Record, error)
	// query runs fn on one connection.
	query(ctx context.Context, fn func(endstate.Querier) error) error
	// querier is the pool, which takes a connection for each statement.
	querier() endstate.Querier
	// taken is how many of the pool's connections are in use, of how many; 0: of any number.
	taken() (taken, of int)
	migrate(ctx context.Context, fn func(endstate.Tx) error) error
	// transacts says why PostgreSQL, or a pooler in front of it, begins no transaction.
	transacts(ctx context.Context) error
}

// settler is a database that can do without a session; handled is false where the guard has no plan for it.
type settler interface {
	settle(ctx context.Context, f *core, a *attempt) (r Receipt, handled bool, err error)
	// resume finds out what became of an attempt after errUnanswered.
	resume(ctx context.Context, f *core, a *attempt, cause error) (Receipt, error)
	// look is Finalizer.look.
	look(ctx context.Context, a *attempt) (seen sighting, handled bool, err error)
}

// session is one attempt's transaction, or its savepoint in the caller's.
type session[Tx any] interface {
	// tx is what the callback gets.
	tx() Tx
	// finish settles, writes the events and commits (or releases the savepoint), so that all or none of it happens.
	finish(ctx context.Context, a *attempt) (guard.Record, error)
	// outside is where to ask once the session was rolled back: the caller's transaction, or the database.
	outside() endstate.Querier
	// callers reports whether it is a savepoint.
	callers() bool
	ender
}

// ender is how a session ends that doesn't finish.
type ender interface {
	// stale gives the connection up if err says that it can only read; see stale.go.
	stale(ctx context.Context, a *attempt, err error) error
	// rollback undoes all unless finish succeeded, also when ctx has ended. It is safe to call twice.
	rollback(ctx context.Context)
}

var escape = strings.NewReplacer("%", "%25", "/", "%2F", "#", "%23")

const rollbackTimeout = 5 * time.Second

// end reports how a call ended, and gives its error a context.
func (f *Finalizer[Tx]) end(ctx context.Context, a *attempt, r Receipt, err error) (Receipt, error) {
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

// keyChecker is a guard that can tell whether a key is of the kind that its columns have.
type keyChecker interface {
	CheckKey(ctx context.Context, q endstate.Querier, key guard.Key) error
}

// explain adds what the database lacks, or what is wrong with the key, to an error that may come from it.
func (f *Finalizer[Tx]) explain(ctx context.Context, a *attempt, err error) error {
	if g, ok := f.cfg.Guard.(keyChecker); ok && sqltx.State(err) == sqltx.UndefinedFunction {
		ctx, cancel := undoing(ctx)
		defer cancel()
		unfit := f.db.query(ctx, func(q endstate.Querier) error { return g.CheckKey(ctx, q, a.ref.Key) })
		if errors.Is(unfit, guard.ErrInvalidKey) {
			err = fmt.Errorf("%w (%w)", unfit, err)
		}
	}
	if sqltx.Incomplete(err) || sqltx.Unfit(err) {
		ctx, cancel := undoing(ctx)
		defer cancel()
		if lack := f.lack.ask(func() error { return f.Check(ctx) }); errors.Is(lack, guard.ErrSchema) || errors.Is(lack, outbox.ErrSchema) {
			err = fmt.Errorf("%w (%w)", lack, err)
		}
	}
	if sqltx.State(err) == sqltx.ReadOnly || errors.Is(err, errReplica) {
		err = fmt.Errorf("%w; finalizing needs the primary, with default_transaction_read_only off", err)
	}
	return fmt.Errorf("finalize: %v, trigger %s: %w", a.ref, a.Trigger, err)
}
