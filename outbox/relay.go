package outbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/endstate-go/endstate/internal/sleep"
)

// Relay publishes the events of an outbox: see the package's documentation for what it promises. Any number of relays, in
// any number of processes, share the work.
type Relay struct {
	db        database
	store     store
	publisher Publisher
	cfg       RelayConfig
	wake      chan struct{}
	running   atomic.Bool
	checked   bool  // the tables are there
	owed      int64 // the epoch of a lease that isn't given back
}

// ErrRunning is returned by Run when the relay runs already.
var ErrRunning = errors.New("outbox: the relay runs already")

// NewRelay returns a relay for an outbox on db, which begins with Run. It sends nothing; a nil cfg has all defaults.
//
// A relay needs two of db's connections at a time. When others use the same pool up, it loses its lease.
func NewRelay[DB Database](db DB, publisher Publisher, cfg *RelayConfig) (*Relay, error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if publisher == nil {
		return nil, fmt.Errorf("%w: the publisher is nil", ErrConfig)
	}
	opened, err := open(db, c.Dialect)
	if err != nil {
		return nil, err
	}
	if c.ListenURL != "" && opened.sqlite() {
		return nil, fmt.Errorf("%w: RelayConfig.ListenURL is for PostgreSQL only; use Wake", ErrConfig)
	}
	return &Relay{db: opened, store: newStore(opened, &c), publisher: publisher, cfg: c, wake: make(chan struct{}, 1)}, nil
}

// Wake tells the relay that there are new events, so that it looks at once. It never waits, may be called by any number of
// goroutines, and is only a hint: a relay that isn't woken finds them when it polls. Call it after the commit.
func (r *Relay) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run publishes events until ctx ends; then it lets the batch in flight finish, for up to ShutdownTimeout, gives its shards
// to the other relays, and returns nil. Nothing that happens to the database or the publisher ends it: it says so in the
// log, and tries again. An error is returned only for what trying again doesn't mend: a second Run at the same time
// (ErrRunning), or a table that is missing when it starts (ErrSchema).
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
	if r.cfg.Retention > 0 {
		beside.Go(func() { r.retain(ctx) })
	}
	for failures := 0; ctx.Err() == nil; {
		start := time.Now()
		err := r.term(ctx)
		if errors.Is(err, ErrSchema) {
			return err
		}
		if err == nil || ctx.Err() != nil {
			break
		}
		if time.Since(start) > r.cfg.LeaseTTL {
			failures = 0
		}
		failures++
		wait := backoff(minOutage, maxOutage, failures)
		r.reconnecting(ctx, err, wait)
		_ = sleep.For(ctx, wait)
	}
	return nil
}

// term takes a lease, works while it has it, and gives it back.
func (r *Relay) term(ctx context.Context) (err error) {
	if !r.checked {
		if err := r.cfg.Outbox.CheckRelay(ctx, r.db); err != nil {
			return fmt.Errorf("check the tables: %w", err)
		}
		r.checked = true
	}
	if r.owed != 0 {
		if err := r.repay(ctx); err != nil {
			return err
		}
	}
	l, err := r.acquire(ctx)
	if err != nil {
		return fmt.Errorf("take a lease: %w", err)
	}
	r.owed = l.epoch
	t := &term{Relay: r, lease: l, log: r.cfg.Logger.With("relay", r.cfg.Name, "epoch", l.epoch), limit: r.cfg.BatchSize}
	t.log.InfoContext(ctx, "outbox relay: started")
	l.keeper.Go(func() {
		select {
		case <-ctx.Done():
			_ = sleep.For(l.ctx, r.cfg.ShutdownTimeout)
			l.cancel(errShutdown)
		case <-l.ctx.Done():
		}
	})
	t.work(ctx)
	lost := l.lost() && ctx.Err() == nil
	l.close()
	if lost {
		t.log.WarnContext(ctx, "outbox relay: lease lost")
		if f := r.cfg.Trace.LeaseLost; f != nil {
			f(ctx)
		}
	}
	if err := r.repay(context.WithoutCancel(ctx)); err != nil {
		t.log.WarnContext(ctx, "outbox relay: shards not given back, the others wait for the lease to expire", "error", err)
	} else {
		t.log.InfoContext(ctx, "outbox relay: stopped, its shards are free", "published", l.published.Load())
	}
	if lost {
		return errLeaseLost
	}
	return nil
}

var errShutdown = errors.New("outbox: the relay is shut down")

// repay gives back the last lease, with what was in flight: this process lives, so no event has killed it.
func (r *Relay) repay(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.LeaseTTL/2)
	defer cancel()
	if err := r.store.release(ctx, r.owed); err != nil {
		return fmt.Errorf("give shards back: %w", err)
	}
	r.owed = 0
	return nil
}

// reconnecting tells that the database can't be used for now.
func (r *Relay) reconnecting(ctx context.Context, err error, wait time.Duration) {
	r.cfg.Logger.WarnContext(ctx, "outbox relay: no use of the database, trying again", "relay", r.cfg.Name, "wait", wait, "error", err)
	if f := r.cfg.Trace.Reconnecting; f != nil {
		f(ctx, err, wait)
	}
}
