package lockredis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/lock"
)

// keeper renews a lease with a TTL until it is stopped, and says when it is lost. A third of the TTL after the last
// renewal it asks for the next, and again after each failure, until the lease may have ended at the service.
type keeper struct {
	ttl, margin, again time.Duration
	lease              renewable

	timer    *time.Timer
	renewing sync.WaitGroup // until the renewals, if they ever began, have ended
	mu       sync.Mutex     // guards ended and stop
	ended    bool
	stop     context.CancelFunc // from the first renewal on
	ends     time.Time          // by the monotonic clock; the renewals' own until they have ended
	lost     error
}

// renewable is the lease of a keeper.
type renewable interface {
	renew(context.Context) error // lock.ErrLost is the service's word that the lease is gone
	lose(error)
}

// start begins with a lease that was asked for at a time. One that is given back before its first renewal costs no goroutine,
// and no context.
func (k *keeper) start(ctx context.Context, asked time.Time) {
	k.extend(asked)
	k.renewing.Add(1)
	k.timer = time.AfterFunc(time.Until(asked.Add(k.ttl/3)), func() {
		defer k.renewing.Done()
		ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		defer stop()
		k.mu.Lock()
		k.stop = stop
		ended := k.ended
		k.mu.Unlock()
		if ended {
			return
		}
		if k.lost = k.renewals(ctx); k.lost != nil {
			k.lease.lose(k.lost)
		}
	})
}

// extend takes note of a renewal that was asked for at a time: the service's TTL began no earlier.
func (k *keeper) extend(asked time.Time) { k.ends = asked.Add(k.ttl - k.margin) }

// renewals returns why the lease is lost, or nil when it was stopped.
func (k *keeper) renewals(ctx context.Context) error {
	last := errors.New("this process was held up")
	for {
		if time.Now().Before(k.ends) {
			asked := time.Now()
			trip, cancel := context.WithDeadline(ctx, k.ends)
			err := k.lease.renew(trip)
			cancel()
			switch {
			case ctx.Err() != nil:
				return nil
			case errors.Is(err, lock.ErrLost):
				return err
			case err == nil:
				k.extend(asked)
				if sleep.For(ctx, time.Until(asked.Add(k.ttl/3))) != nil {
					return nil
				}
				continue
			}
			last = err
		}
		if !time.Now().Before(k.ends) {
			return fmt.Errorf("%w: it was not renewed in time: %w", lock.ErrLost, last)
		}
		if sleep.For(ctx, min(k.again, time.Until(k.ends))) != nil {
			return nil
		}
	}
}

// end stops the renewals, and returns the error with which the lease was lost, also if nobody noticed so far.
func (k *keeper) end() error {
	if !k.timer.Stop() {
		k.mu.Lock()
		k.ended = true
		if k.stop != nil {
			k.stop()
		}
		k.mu.Unlock()
		k.renewing.Wait()
	}
	if k.lost == nil && !time.Now().Before(k.ends) {
		k.lost = fmt.Errorf("%w: its time is over, and nothing renewed it", lock.ErrLost)
	}
	return k.lost
}
