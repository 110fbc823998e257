// Package lease is what every lock of this library is made of: a lease that ends however its function ends, the line of
// callers within one process, and the values that contexts carry. It knows no lock service.
package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// MaxKey is lock.MaxKey.
const MaxKey = 2400

// ErrInvalidKey is lock.ErrInvalidKey.
var ErrInvalidKey = errors.New("lock: invalid key")

// Lease is a lock that is held. Its context ends, with an error that wraps lock.ErrLost as its cause, when it is lost.
type Lease struct {
	// Release gives the lock back. It returns an error that wraps lock.ErrLost if the lease was lost by then.
	Release func() error

	ctx    context.Context
	cancel context.CancelCauseFunc
	token  int64
	queues *Queues
	key    string
	left   sync.Once
}

// New makes a lease for a caller's context. The next caller of this process has the key when the lease ends, or as soon as it
// is lost.
func New(ctx context.Context, token int64, queues *Queues, key string) *Lease {
	l := &Lease{token: token, queues: queues, key: key}
	l.ctx, l.cancel = context.WithCancelCause(context.WithValue(ctx, tokenKey{}, l))
	return l
}

// Lose ends the lease's context. The error wraps lock.ErrLost.
func (l *Lease) Lose(err error) {
	l.cancel(err)
	l.free()
}

func (l *Lease) free() { l.left.Do(func() { l.queues.Leave(l.key) }) }

// Run runs fn under the lease and ends it, however fn ends.
func (l *Lease) Run(fn func(context.Context) error) (err error) {
	defer func() {
		defer l.free()
		if lost := l.Release(); lost != nil && !errors.Is(err, lost) {
			err = errors.Join(err, lost)
		}
		l.cancel(nil)
	}()
	return fn(l.ctx)
}

// Check refuses a call whose key or function is wrong, or whose context has ended.
func Check(ctx context.Context, key string, fn func(context.Context) error) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidKey)
	case len(key) > MaxKey:
		return fmt.Errorf("%w: it is %d bytes long, the limit is %d", ErrInvalidKey, len(key), MaxKey)
	case fn == nil:
		return fmt.Errorf("lock: key %q: fn is nil", key)
	}
	return context.Cause(ctx)
}

type tokenKey struct{}

// Token is lock.Token.
func Token(ctx context.Context) (token int64, ok bool) {
	l, ok := ctx.Value(tokenKey{}).(*Lease)
	if !ok {
		return 0, false
	}
	return l.token, true
}
