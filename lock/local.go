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
	return lease.Do(ctx, key, fn, func() (*lease.Lease, error) { return l.acquire(ctx, key, true) })
}

// Try implements Locker.
func (l *Local) Try(ctx context.Context, key string, fn func(context.Context) error) error {
	return lease.Do(ctx, key, fn, func() (*lease.Lease, error) { return l.acquire(ctx, key, false) })
}

func (l *Local) acquire(ctx context.Context, key string, wait bool) (*lease.Lease, error) {
	leave, err := inLine(ctx, &l.queues, key, wait)
	if err != nil {
		return nil, err
	}
	held := lease.New(ctx, l.tokens.Add(1), leave)
	held.Release = func() error { return nil }
	return held, nil
}
