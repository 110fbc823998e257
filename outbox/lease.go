package outbox

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// errLeaseLost ends a term: another relay may own the shards now.
var errLeaseLost = errors.New("outbox: the relay's lease is lost")

// lease is a relay's right to publish the events of its shards. It says for how long on this process's monotonic clock,
// counted from before a renewal was sent, so that it ends here before it ends on the database's clock, whatever the time of
// day is on either.
type lease struct {
	epoch int64
	// ctx ends with the lease, or when a shutdown has taken long enough. It doesn't end with Run's.
	ctx    context.Context
	cancel context.CancelCauseFunc

	published atomic.Int64 // events, for people
	keeper    sync.WaitGroup
}

// acquire takes a lease and keeps it until close.
func (r *Relay) acquire(ctx context.Context) (*lease, error) {
	asked := time.Now()
	try, cancel := context.WithTimeout(ctx, r.cfg.LeaseTTL)
	defer cancel()
	epoch, err := r.store.register(try, r.cfg.Name, r.cfg.LeaseTTL)
	if err != nil {
		return nil, err
	}
	l := &lease{epoch: epoch}
	l.ctx, l.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	l.keeper.Go(func() { r.keep(l, asked) })
	return l, nil
}

// lost tells whether the lease has ended.
func (l *lease) lost() bool { return l.ctx.Err() != nil }

// close ends the lease here, and waits for its keeper.
func (l *lease) close() {
	l.cancel(errLeaseLost)
	l.keeper.Wait()
}

// keep renews the lease. When that can't be done in time, or another relay ended the lease, it is lost.
func (r *Relay) keep(l *lease, renewed time.Time) {
	// A twentieth is for clocks that don't run equally fast.
	valid := r.cfg.LeaseTTL - r.cfg.LeaseTTL/20
	beat := r.cfg.LeaseTTL / 5
	expiry := time.AfterFunc(time.Until(renewed.Add(valid)), func() { l.cancel(errLeaseLost) })
	defer expiry.Stop()
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	var before int64
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-ticker.C:
		}
		asked, published := time.Now(), l.published.Load()
		rate := float64(published-before) / asked.Sub(renewed).Seconds()
		ctx, cancel := context.WithTimeout(l.ctx, beat*2)
		alive, err := r.store.renew(ctx, l.epoch, r.cfg.LeaseTTL, published, rate)
		cancel()
		switch {
		case err != nil:
			r.cfg.Logger.DebugContext(l.ctx, "outbox relay: lease not renewed", "error", err)
		case !alive:
			l.cancel(errLeaseLost)
			return
		case !expiry.Reset(time.Until(asked.Add(valid))):
			return // it went off meanwhile
		default:
			renewed, before = asked, published
		}
	}
}

// balance ends expired leases of others, and takes or gives shards until this relay owns its share.
func (t *term) balance(ctx context.Context) error {
	gone, err := t.store.reap(ctx)
	if err != nil {
		return err
	}
	for _, name := range gone {
		t.log.WarnContext(ctx, "outbox relay: another relay died, its shards are free", "relay", name)
	}
	h, err := t.store.holdings(ctx, t.lease.epoch)
	if err != nil {
		return err
	}
	share := (Shards + max(h.relays, 1) - 1) / max(h.relays, 1)
	if h.owned != share || h.owned != t.owned { // also by a take or give whose answer was lost
		t.position.rewind()
	}
	switch {
	case h.owned > share:
		err = t.store.give(ctx, t.lease.epoch, h.owned-share)
	case h.owned < share && h.unowned > 0:
		t.taken, t.waiting, t.nextDue = true, true, time.Now()
		err = t.store.take(ctx, t.lease.epoch, share-h.owned)
	}
	if err != nil {
		return err
	}
	if h.owned != share {
		if h, err = t.store.holdings(ctx, t.lease.epoch); err != nil {
			return err
		}
	}
	if t.taken {
		if err := t.store.free(ctx, t.lease.epoch); err != nil {
			return err
		}
		t.taken = false
	}
	t.suspects = h.suspect > 0
	if h.owned != t.owned {
		t.log.InfoContext(ctx, "outbox relay: shards changed", "shards", h.owned, "before", t.owned, "relays", h.relays)
		t.owned = h.owned
		if owns := t.cfg.Trace.Owns; owns != nil {
			owns(ctx, h.owned)
		}
	}
	return nil
}
