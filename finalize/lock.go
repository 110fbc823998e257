package finalize

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/isnil"
	"github.com/endstate-go/endstate/internal/lease"
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

// LockConfig says which lock DoPrepared uses, and how. Do, DoTx and Settle don't use it: their callbacks run while the guard
// holds the aggregate, one after another in any case.
type LockConfig struct {
	// Locker is the lock: lock.NewPostgres, lock.NewLocal and lockredis.New make one. Its key is the tenant,
	// where there are tenants, the aggregate's name and the encoded key. Default: none.
	Locker Locker
	// OnContention says what to do when another call holds the lock. Default WaitForHolder.
	OnContention Contention
	// Timeout bounds how long a call waits for another one that holds the lock; then it fails with ErrInProgress. Default
	// 1 min.
	Timeout time.Duration
	// OnFailure says what to do when the lock service is away. Default FailOpen.
	OnFailure LockFailure
}

// check returns the field that doesn't make sense, if there is one.
func (c LockConfig) check() (field, why string) {
	if c.Locker != nil && isnil.Any(c.Locker) {
		return "Locker", fmt.Sprintf("is a nil %T; leave the field out where there is no lock", c.Locker)
	}
	if c.OnContention != WaitForHolder && c.OnContention != ReturnInProgress {
		return "OnContention", "is neither WaitForHolder nor ReturnInProgress"
	}
	if _, ok := c.Locker.(tryLocker); c.OnContention == ReturnInProgress && !ok {
		return "OnContention", fmt.Sprintf("is ReturnInProgress, but Lock.Locker (%T) has no method Try", c.Locker)
	}
	if c.OnFailure != FailOpen && c.OnFailure != FailClosed {
		return "OnFailure", "is neither FailOpen nor FailClosed"
	}
	return "", ""
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
	// ReturnInProgress returns ErrInProgress at once. It needs a Locker that also has a method Try with Do's parameters.
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

// errLockWait ends a wait for the lock after LockConfig.Timeout.
var errLockWait = errors.New("finalize: Lock.Timeout is over")

// locked runs work under the lock. Its context is the lease's.
func (f *core) locked(ctx context.Context, a *attempt, work func(context.Context) (Receipt, error)) (r Receipt, err error) {
	if f.cfg.Lock.Locker == nil {
		return work(ctx)
	}
	acquire := f.cfg.Lock.Locker.Do
	if f.cfg.Lock.OnContention == ReturnInProgress {
		acquire = f.cfg.Lock.Locker.(tryLocker).Try // config.validate has seen to it
	}
	// The time limit is on waiting, not on the work.
	waiting, giveUp := context.WithCancelCause(lease.WithHolder(ctx, a.Trigger))
	defer giveUp(nil)
	limit := time.AfterFunc(f.cfg.Lock.Timeout, func() { giveUp(errLockWait) })
	defer limit.Stop()
	ran, late := false, false
	var lost error
	lockErr := acquire(waiting, a.lockKey(), func(leased context.Context) error {
		if !limit.Stop() {
			late = true
			return errLockWait
		}
		ran = true
		r, err = work(leased)
		if leased.Err() != nil && waiting.Err() == nil {
			lost = context.Cause(leased)
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
	if f.cfg.Lock.OnFailure == FailClosed {
		return Receipt{}, fmt.Errorf("%w: %w", ErrLockUnavailable, lockErr)
	}
	return work(ctx)
}

// lockKey is the aggregate and its key; before them, where there are tenants, whose it is.
func (a *attempt) lockKey() string {
	key := escape.Replace(a.Aggregate) + "/" + a.Key
	if a.ref.Tenant != "" {
		key = "tenant/" + escape.Replace(a.ref.Tenant) + "/" + key
	}
	return key
}

func (f *core) lockUnavailable(ctx context.Context, a *attempt, err error) {
	message := "lock unavailable, going on without it"
	if f.cfg.Lock.OnFailure == FailClosed {
		message = "lock unavailable"
	}
	f.cfg.Logger.WarnContext(ctx, message, a.attrs("error", err)...)
	if t := f.cfg.Trace.LockUnavailable; t != nil {
		t(ctx, a.call(), err)
	}
}

func (f *core) lockLost(ctx context.Context, a *attempt, err error) {
	f.cfg.Logger.WarnContext(ctx, "lock lost while the work went on", a.attrs("error", err)...)
	if t := f.cfg.Trace.LockLost; t != nil {
		t(ctx, a.call(), err)
	}
}
