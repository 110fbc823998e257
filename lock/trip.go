package lock

import (
	"context"
	"errors"
	"net"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"
)

// trip runs op, one trip to Redis, and returns when it is done, when the lock's Timeout has passed, or when ctx ends. A
// go-redis client heeds the deadline of a context only where its options say so, and else its own timeouts of several
// seconds, several times over; so op runs in a goroutine of its own, which goes on when the caller can't wait any longer,
// and hands its result to late. Close waits for it.
func (r *Redis) trip(ctx context.Context, op func(context.Context) error, late func(error)) error {
	done, gone := make(chan error), make(chan struct{})
	opCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.Timeout)
	r.running.Go(func() {
		defer cancel()
		err := op(opCtx)
		select {
		case done <- err:
		case <-gone:
			if late != nil {
				late(err)
			}
		}
	})
	defer close(gone)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-opCtx.Done():
	}
	// It may have been done just then.
	select {
	case err := <-done:
		return err
	default:
		return errNoAnswer
	}
}

// errNoAnswer is the error of a trip that took too long.
var errNoAnswer = errors.New("redis did not answer in time")

// definite tells whether an error of a trip says that Redis did nothing: its own word, or that nothing could be sent.
func definite(err error) bool {
	var dial *net.OpError
	var word redis.Error
	return errors.As(err, &word) || errors.As(err, &dial) && dial.Op == "dial" ||
		errors.Is(err, redis.ErrClosed) || errors.Is(err, redis.ErrPoolTimeout)
}

// giveBackLater deletes what an attempt whose answer got lost may have left, as soon as Redis answers, until its TTL would
// have passed anyway.
func (r *Redis) giveBackLater(name, value string) {
	ctx, cancel := context.WithTimeout(r.life, r.cfg.TTL)
	defer cancel()
	pause := r.backoff()
	for {
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.Timeout)
		err := r.compareAndDelete(attempt, name, value)
		cancel()
		if err == nil || errors.Is(err, redislock.ErrLockNotHeld) || sleep(ctx, pause.NextBackOff()) != nil {
			return
		}
	}
}

// compareAndDelete gives a lock back if it has this value, else it returns redislock.ErrLockNotHeld.
func (r *Redis) compareAndDelete(ctx context.Context, name, value string) error {
	had, err := release.Run(ctx, r.client, []string{name}, value, !r.cfg.NoWakeUp).Bool()
	if err == nil && !had {
		err = redislock.ErrLockNotHeld
	}
	return err
}
