package lock

import (
	"context"
	"errors"
	"sync"
)

// lease is a lock that is held. Its context ends with the cause ErrLost when it is lost.
type lease struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	// free lets the next one of this process have the key: when the lease ends, or as soon as it is lost.
	free func()
	// release gives the lock back. It returns an error that wraps ErrLost if the lease was lost by then.
	release func() error
}

// newLease makes a lease for a caller's context.
func newLease(ctx context.Context, token int64, leave func()) *lease {
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, tokenKey{}, token))
	return &lease{ctx: ctx, cancel: cancel, free: sync.OnceFunc(leave)}
}

// lose ends the lease's context. The error wraps ErrLost.
func (l *lease) lose(err error) {
	l.cancel(err)
	l.free()
}

// run runs fn under the lease and ends it, however fn ends.
func (l *lease) run(fn func(context.Context) error) (err error) {
	defer func() {
		defer l.free()
		if lost := l.release(); lost != nil && !errors.Is(err, lost) {
			err = errors.Join(err, lost)
		}
		l.cancel(nil)
	}()
	return fn(l.ctx)
}
