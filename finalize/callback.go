package finalize

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// callback is a callback that runs, as the context that it gets knows it.
type callback struct {
	pool  any // the *pgxpool.Pool or *sql.DB that its transaction is of
	ref   guard.Ref
	outer *callback
	over  atomic.Bool // its context may live on
}

type callbackKey struct{}

// running returns the callback that ctx is of, on this finalizer's pool and of this aggregate if one is given.
func (f *core) running(ctx context.Context, ref *guard.Ref) *callback {
	c, _ := ctx.Value(callbackKey{}).(*callback)
	for ; c != nil; c = c.outer {
		if c.pool == f.pool && !c.over.Load() && (ref == nil || c.ref == *ref) {
			return c
		}
	}
	return nil
}

// call runs the callback.
func (f *Finalizer[Tx]) call(ctx context.Context, a *attempt, tx Tx, fn Func[Tx]) (Outcome, error) {
	c := &callback{pool: f.pool, ref: a.ref}
	c.outer, _ = ctx.Value(callbackKey{}).(*callback)
	defer c.over.Store(true)
	ctx = context.WithValue(ctx, callbackKey{}, c)
	w := &idleWatch{warn: func(idle time.Duration) { f.idle(ctx, a, idle) }, patience: f.cfg.IdleWarning, began: time.Now()}
	w.lent, _ = any(tx).(*sqltx.Lent)
	w.start()
	defer w.stop()
	return fn(ctx, tx)
}

// idle warns of a transaction that does nothing while its callback runs. For a *sql.Tx, of which nobody knows what it does, that
// is since the callback began.
func (f *Finalizer[Tx]) idle(ctx context.Context, a *attempt, idle time.Duration) {
	taken, of := f.db.taken()
	f.cfg.Logger.WarnContext(ctx, "a callback leaves its transaction idle: is it at long work, or waiting for another connection, by the pool or a global handle in place of tx?",
		a.attrs("idle", idle.Round(time.Millisecond), "connections_taken", taken, "connections", of)...)
}

// idleWatch warns of a transaction that isn't used: after its patience, and again each time that it has doubled.
type idleWatch struct {
	warn     func(idle time.Duration)
	patience time.Duration
	began    time.Time
	lent     *sqltx.Lent // nil on database/sql

	mu    sync.Mutex
	timer *time.Timer // nil once it has stopped
}

func (w *idleWatch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(w.patience, w.look)
}

func (w *idleWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		return
	}
	idle := time.Since(w.began)
	if w.lent != nil {
		idle = min(idle, time.Since(w.lent.LastUse()))
	}
	if idle >= w.patience {
		w.warn(idle)
		w.patience *= 2
	}
	w.timer.Reset(w.patience - idle)
}

// stop waits for a warning that is being written.
func (w *idleWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	w.timer = nil
}
