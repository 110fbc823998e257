package finalize

import (
	"context"
	"errors"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
)

// DoPrepared is Do for work that takes long: scoring, rendering, calling a model. Prepare does that work, with no transaction
// open, and returns the Func that writes what came of it, in the transaction that finalizes:
//
//	look at the guard ── final ──> receipt of the winner
//	  │ open
//	lock ── held by another ──> wait, or ErrInProgress
//	  │
//	look again ── final ──> receipt of the winner
//	  │ open
//	prepare, then Do with what it returned as the callback
//
// Prepare runs under the lock of Config.Lock, so that it runs once where triggers overlap, most of the time; its context ends
// when the lease is lost, upon which it should stop. With the locks of package lock, lock.Token(ctx) is the lease's fencing
// token. ErrNotReady and other errors are handed to the caller, and nothing was written.
//
// Without a lock every trigger prepares that finds the aggregate open. A lease that is lost, or a lock service that is away,
// costs duplicated work. It never lets two calls win: the one whose commit comes late gets the winner's receipt.
func (f *Finalizer[Tx]) DoPrepared(ctx context.Context, key guard.Key, trigger Trigger, prepare func(context.Context) (Func[Tx], error)) (Receipt, error) {
	a, r, err := f.open(ctx, key, trigger, "prepare", prepare == nil)
	if a == nil {
		return r, err
	}
	ctx = f.begin(ctx, a)
	r, err = f.ifOpen(ctx, a, func() (Receipt, error) {
		return f.locked(ctx, a, func(lease context.Context) (Receipt, error) {
			work := func() (Receipt, error) { return f.prepared(ctx, lease, a, prepare) }
			if f.cfg.Lock.Locker == nil {
				return work() // nobody was waited for
			}
			return f.ifOpen(ctx, a, work)
		})
	})
	return f.end(ctx, a, r, err)
}

func (f *Finalizer[Tx]) prepared(ctx, lease context.Context, a *attempt, prepare func(context.Context) (Func[Tx], error)) (Receipt, error) {
	fn, err := running(lease, f.core, a, prepare)
	switch {
	case err != nil:
		return Receipt{}, withCause(lease, err)
	case fn == nil:
		return Receipt{}, errors.New("prepare returned neither a Func nor an error")
	}
	ctx, stop := outliving(ctx, lease)
	defer stop()
	return f.inTurn(ctx, a, f.traced(a, fn))
}

// outliving returns a context with the lease's values that ends with the caller's context, and not with the lease: from
// here on the guard decides.
func outliving(caller, lease context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(lease))
	if caller.Err() != nil {
		cancel(context.Cause(caller)) // at once
	}
	stop := context.AfterFunc(caller, func() { cancel(context.Cause(caller)) })
	return ctx, func() { stop(); cancel(nil) }
}

// ifOpen returns the winner's receipt if the aggregate is final, else it goes on with work.
func (f *Finalizer[Tx]) ifOpen(ctx context.Context, a *attempt, work func() (Receipt, error)) (Receipt, error) {
	forgets := f.cache.forgets.Load()
	rec, err := f.peek(ctx, a)
	if err != nil {
		return Receipt{}, err
	}
	if rec.Final {
		r := receiptOf(rec, false)
		f.cache.put(a.ref, r, f.now(), forgets)
		return r, nil
	}
	return work()
}

// peek reads what the guard knows. Where that can be read without a transaction, it waits for nobody.
func (f *Finalizer[Tx]) peek(ctx context.Context, a *attempt) (guard.Record, error) {
	if r, ok := f.cfg.Guard.(guard.Reader); ok {
		var rec guard.Record
		err := f.db.query(ctx, func(q endstate.Querier) (err error) {
			rec, err = r.Read(ctx, q, a.ref)
			return err
		})
		// Guards that are read one after the other seem to disagree when a winner commits in between, and a guard made of
		// others may not be readable after all.
		if err == nil || errors.Is(err, guard.ErrNotFound) || errors.Is(err, errNoConnection) || ctx.Err() != nil {
			return rec, withCause(ctx, err)
		}
	}
	s, rec, err := f.db.claim(ctx, a)
	if s != nil {
		s.rollback(ctx)
	}
	return rec, err
}
