package relay

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/isnil"
	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/outbox"
)

// Relay publishes the events of an outbox for one subscription: see the package's documentation for what it promises. Any number
// of relays, in any number of processes, share the work.
type Relay struct {
	store     *store
	publisher outbox.Publisher // one of the two
	begin     beginWork
	cfg       *Config
	log       *slog.Logger
	wake      chan struct{}
	running   atomic.Bool
	checked   bool   // the tables are there
	owed      string // the id of a lease that isn't given back
}

// Errors that end a Run, since trying again doesn't fix them. They arrive wrapped.
var (
	// ErrRunning is returned by Run when the relay is already running.
	ErrRunning = errors.New("relay: the relay is already running")

	// ErrDestination is returned by Run when a running relay of the same subscription publishes elsewhere, or other types. Name a
	// subscription of its own for each destination: it gets every event, too.
	ErrDestination = errors.New("relay: the subscription publishes elsewhere, or other types")

	// ErrSequence is returned by Run when the outbox's sequence is behind a cursor: somebody truncated or reset it, or promoted a
	// logical replica. New events would get numbers that the cursor has passed, and be published by nobody. Set the sequence
	// higher than every position, or drop the subscriptions.
	ErrSequence = errors.New("relay: the outbox's sequence is behind a cursor")
)

// New returns a relay for an outbox on a pool, which begins with Run. It sends nothing; a nil cfg has all defaults.
//
// A relay needs three of the pool's connections at a time. When others use it up, the relay loses its lease.
func New(pool *pgxpool.Pool, publisher outbox.Publisher, cfg *Config) (*Relay, error) {
	return newRelay(database{pool: pool}, publisher, nil, cfg)
}

// NewSQL is New on database/sql, on PostgreSQL or SQLite.
func NewSQL(db *sql.DB, publisher outbox.Publisher, cfg *Config) (*Relay, error) {
	return newRelay(database{sql: db}, publisher, nil, cfg)
}

func newRelay(db database, publisher outbox.Publisher, begin beginWork, cfg *Config) (*Relay, error) {
	s, err := newStore(db, cfg)
	switch {
	case err != nil:
		return nil, err
	case begin == nil && isnil.Any(publisher):
		return nil, fmt.Errorf("%w: the publisher is nil", outbox.ErrConfig)
	case s.cfg.ListenURL != "" && s.sqlite():
		return nil, fmt.Errorf("%w: relay.Config.ListenURL is for PostgreSQL only; use Wake", outbox.ErrConfig)
	}
	s.patience = s.cfg.LeaseTTL / 2
	return &Relay{store: s, publisher: publisher, begin: begin, cfg: s.cfg, wake: make(chan struct{}, 1),
		log: s.cfg.Logger.With("relay", s.cfg.Name, "subscription", s.cfg.Subscription)}, nil
}

// destination is where the publisher publishes, scheme and host of it.
func (r *Relay) destination() string {
	if a, ok := r.publisher.(outbox.Addressed); ok && r.cfg.Destination == "" {
		if u, err := url.Parse(a.Destination()); err == nil && u.Host != "" {
			return u.Scheme + "://" + u.Host
		}
	}
	return r.cfg.Destination
}

// Wake tells the relay that there are new events, so that it looks at once. It never waits, may be called by any number of
// goroutines, and is only a hint: a relay that isn't woken finds them when it polls. Call it after the commit.
func (r *Relay) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run publishes events until ctx ends; then it lets the batch in flight finish, for up to ShutdownTimeout, gives its partitions
// to the other relays, and returns nil. Nothing that happens to the database or the publisher ends it: it says so in the
// log, and tries again. An error is returned only for what trying again doesn't fix: a second Run at the same time
// (ErrRunning), a table that is missing when it starts (outbox.ErrSchema), a pooler without the setting that it needs
// (outbox.ErrConfig), another destination than that of the subscription's running relays (ErrDestination), or a sequence that
// has gone back (ErrSequence).
func (r *Relay) Run(ctx context.Context) error {
	if !r.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer r.running.Store(false)
	var beside sync.WaitGroup
	defer beside.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.cfg.ListenURL != "" {
		beside.Go(func() { r.listen(ctx) })
	}
	if r.cfg.Retention != KeepForever {
		beside.Go(func() { r.retain(ctx) })
	}
	for failures := 0; ctx.Err() == nil; {
		start := time.Now()
		err := r.term(ctx)
		if err == nil || ctx.Err() != nil {
			break
		}
		for _, final := range []error{outbox.ErrSchema, outbox.ErrConfig, ErrDestination, ErrSequence} {
			if errors.Is(err, final) {
				return err
			}
		}
		if time.Since(start) > r.cfg.LeaseTTL {
			failures = 0
		}
		failures++
		r.reconnecting(ctx, err, failures)
	}
	if r.cfg.Retention == DeleteOnPublish {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.ShutdownTimeout)
		defer cancel()
		if _, err := r.store.purge(last, 0, 0); err != nil {
			r.log.WarnContext(ctx, "outbox relay: published events not deleted", "error", err)
		}
	}
	return nil
}

// term takes a lease, works while it has it, and gives it back.
func (r *Relay) term(ctx context.Context) (err error) {
	if !r.checked {
		if err := r.check(ctx); err != nil {
			return err
		}
		r.checked = true
	}
	if r.owed != "" {
		if err := r.repay(ctx); err != nil {
			return err
		}
	}
	l, err := r.acquire(ctx)
	if err != nil {
		return fmt.Errorf("take a lease: %w", err)
	}
	defer l.close() // also when a hook panics
	r.owed = l.id
	t := newTerm(r, l)
	t.log.InfoContext(ctx, "outbox relay: started")
	if f := r.cfg.Trace.LeaseTaken; f != nil {
		f(ctx, uuid.MustParse(l.id))
	}
	l.keeper.Go(func() {
		select {
		case <-ctx.Done():
			_ = sleep.For(l.ctx, r.cfg.ShutdownTimeout)
			l.cancel(errShutdown)
		case <-l.ctx.Done():
		}
	})
	err = t.work(ctx)
	lost := l.lost() && ctx.Err() == nil
	l.close()
	if f := r.cfg.Trace.Owns; f != nil && t.owned > 0 {
		f(ctx, 0)
	}
	if lost {
		t.log.WarnContext(ctx, "outbox relay: lease lost")
		if f := r.cfg.Trace.LeaseLost; f != nil {
			f(ctx)
		}
	}
	if err := r.repay(context.WithoutCancel(ctx)); err != nil {
		t.log.WarnContext(ctx, "outbox relay: partitions not given back, the others wait for the lease to expire", "error", err)
	} else {
		t.log.InfoContext(ctx, "outbox relay: stopped, its partitions are free", "published", l.published.Load())
	}
	if lost && err == nil {
		return errLeaseLost
	}
	return err
}

// check makes sure that the database is one that the relay can work with.
func (r *Relay) check(ctx context.Context) error {
	ctx, cancel := r.store.bounded(ctx)
	defer cancel()
	if err := r.store.checkPooler(ctx); err != nil {
		return fmt.Errorf("look at the connection: %w", err)
	}
	if err := r.checkTables(ctx); err != nil {
		return fmt.Errorf("check the tables: %w", err)
	}
	return nil
}

func (r *Relay) checkTables(ctx context.Context) error {
	if r.store.sqlite() {
		return Check(ctx, r.store, r.cfg.Outbox)
	}
	return r.store.inTx(ctx, func(ctx context.Context, tx endstate.Tx) error {
		// Some fifty small statements about the catalog, where an administrator may have let compiling and workers seem to cost nothing.
		if _, err := tx.Exec(ctx, "SELECT set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)"); err != nil {
			return err
		}
		return Check(ctx, tx, r.cfg.Outbox)
	})
}

var errShutdown = errors.New("relay: the relay is shut down")

// repay gives back the last lease, with what was in flight: this process lives, so no event has killed it.
func (r *Relay) repay(ctx context.Context) error {
	if err := r.store.release(ctx, r.owed); err != nil {
		return fmt.Errorf("give partitions back: %w", err)
	}
	r.owed = ""
	return nil
}

// reconnecting tells that the database can't be used for now, and waits.
func (r *Relay) reconnecting(ctx context.Context, err error, failures int) {
	wait := backoff(minOutage, maxOutage, failures)
	r.log.WarnContext(ctx, "outbox relay: no use of the database, trying again", "wait", wait, "error", err)
	r.store.drop(ctx, err)
	if f := r.cfg.Trace.Reconnecting; f != nil {
		f(ctx, err, wait)
	}
	_ = sleep.For(ctx, wait)
}
