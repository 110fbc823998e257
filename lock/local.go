package lock

import (
	"context"
	"sync/atomic"

	"github.com/endstate-go/endstate/internal/lease"
)

// Local is a lock within one process, for services that run as one and for tests. Waiters get it in the order in which
// they came, and nothing is left behind for a key that nobody has. It is never unavailable, and a lease is never lost.
type Local struct {
	queues lease.Queues
	tokens atomic.Int64
}

var _ Locker = (*Local)(nil)

// NewLocal returns a lock that is shared by those who have it: make one for a process, not one for each call.
func NewLocal() *Local { return &Local{} }

// Do implements Locker.
func (l *Local) Do(ctx context.Context, key string, fn func(context.Context) error) error {
	return l.do(ctx, key, fn, true)
}

// Try implements Locker.
func (l *Local) Try(ctx context.Context, key string, fn func(context.Context) error) error {
	return l.do(ctx, key, fn, false)
}

func (l *Local) do(ctx context.Context, key string, fn func(context.Context) error, wait bool) error {
	if err := lease.Check(ctx, key, fn); err != nil {
		return err
	}
	if err := inLine(ctx, &l.queues, key, wait); err != nil {
		return err
	}
	held := lease.New(ctx, l.tokens.Add(1), &l.queues, key)
	held.Release = func() error { return nil }
	return held.Run(fn)
}
