package finalize

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/holder"
)

// Locker is a lock that keeps triggers of one aggregate from doing its long work at the same time: those of package lock, or
// your own. It saves work and nothing else. The guard alone decides, so a Locker may be unavailable, or lose a lease
// without noticing.
type Locker interface {
	// Do waits until nobody else holds the lock of this key, runs fn once, on the caller's goroutine, with a context that
	// ends when ctx ends or the lease is lost, and gives the lock back, also when fn panics or exits. When it can't lock it
	// returns an error without running fn. If it didn't lock because somebody else holds the lock, the error, or one that it
	// wraps, has a method HeldBy() string that returns the holder's name, or "".
	Do(ctx context.Context, key string, fn func(context.Context) error) error
}

// tryLocker is a Locker that needn't wait.
type tryLocker interface {
	Try(ctx context.Context, key string, fn func(context.Context) error) error
}

// Contention is what DoPrepared does when another call prepares the same aggregate.
type Contention int

const (
	// WaitForHolder waits for the other call, then looks at the guard again: most often that has won.
	WaitForHolder Contention = iota
	// ReturnInProgress returns ErrInProgress at once. It needs a Lock that also has a method Try with Do's parameters.
	ReturnInProgress
)

// LockFailure is what DoPrepared does when the lock service is away.
type LockFailure int

const (
	// FailOpen goes on without the lock: work may be done twice, and the guard still lets one call win.
	FailOpen LockFailure = iota
	// FailClosed returns ErrLockUnavailable.
	FailClosed
)

// InProgressError says that another call is preparing the aggregate.
type InProgressError struct {
	Ref guard.Ref
	// Trigger is that call's, where the lock knows it.
	Trigger Trigger
}

func (e *InProgressError) Error() string {
	if e.Trigger == "" {
		return fmt.Sprintf("%v: %v", ErrInProgress, e.Ref)
	}
	return fmt.Sprintf("%v: %v, by trigger %s", ErrInProgress, e.Ref, e.Trigger)
}

// Is makes errors.Is(err, ErrInProgress) hold.
func (e *InProgressError) Is(target error) bool { return target == ErrInProgress }

// errLockWait ends a wait for the lock after Config.LockTimeout.
var errLockWait = errors.New("finalize: LockTimeout is over")

// locked runs work under the lock. Its context is the lease's.
func (f *core) locked(ctx context.Context, a *attempt, work func(context.Context) (Receipt, error)) (r Receipt, err error) {
	if f.cfg.Lock == nil {
		return work(ctx)
	}
	acquire := f.cfg.Lock.Do
	if f.cfg.OnContention == ReturnInProgress {
		acquire = f.cfg.Lock.(tryLocker).Try // config.validate has seen to it
	}
	// The time limit is on waiting, not on the work.
	waiting, giveUp := context.WithCancelCause(holder.With(ctx, a.Trigger))
	defer giveUp(nil)
	limit := time.AfterFunc(f.cfg.LockTimeout, func() { giveUp(errLockWait) })
	defer limit.Stop()
	ran, late := false, false
	var lost error
	lockErr := acquire(waiting, a.lockKey(), func(lease context.Context) error {
		if !limit.Stop() {
			late = true
			return errLockWait
		}
		ran = true
		r, err = work(lease)
		if lease.Err() != nil && waiting.Err() == nil {
			lost = context.Cause(lease)
		}
		return err
	})
	if ran {
		if lost == nil && lockErr != nil && !errors.Is(err, lockErr) {
			lost = lockErr
		}
		if lost != nil {
			f.lockLost(ctx, a, lost)
		}
		return r, err
	}
	var held interface{ HeldBy() string }
	switch {
	case ctx.Err() != nil:
		return Receipt{}, withCause(ctx, lockErr)
	case errors.As(lockErr, &held):
		return Receipt{}, &InProgressError{a.ref, Trigger(held.HeldBy())}
	case late, errors.Is(context.Cause(waiting), errLockWait):
		return Receipt{}, &InProgressError{Ref: a.ref}
	case lockErr == nil:
		lockErr = errors.New("the Locker returned nil without running the work")
	}
	f.lockUnavailable(ctx, a, lockErr)
	if f.cfg.OnLockFailure == FailClosed {
		return Receipt{}, fmt.Errorf("%w: %w", ErrLockUnavailable, lockErr)
	}
	return work(ctx)
}

// lockKey is the aggregate and its key.
func (a *attempt) lockKey() string { return escape.Replace(a.Aggregate) + "/" + a.Key }

func (f *core) lockUnavailable(ctx context.Context, a *attempt, err error) {
	if f.logs(ctx, slog.LevelWarn) {
		message := "lock unavailable, going on without it"
		if f.cfg.OnLockFailure == FailClosed {
			message = "lock unavailable"
		}
		f.cfg.Logger.WarnContext(ctx, message, a.attrs("error", err)...)
	}
	if t := f.cfg.Trace.LockUnavailable; t != nil {
		t(ctx, a.call(), err)
	}
}

func (f *core) lockLost(ctx context.Context, a *attempt, err error) {
	if f.logs(ctx, slog.LevelWarn) {
		f.cfg.Logger.WarnContext(ctx, "lock lost while the work went on", a.attrs("error", err)...)
	}
	if t := f.cfg.Trace.LockLost; t != nil {
		t(ctx, a.call(), err)
	}
}
