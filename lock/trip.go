package lock

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/bsm/redislock"
	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/redis/go-redis/v9"
)

// trip runs op, one trip to Redis, which takes no longer than Timeout: a hanging Redis must not keep callers for go-redis's
// own timeouts, which are seconds, several times over. When it isn't known what op did, undo runs in the background once
// Redis could be asked again; Close waits for it.
func (r *Redis) trip(ctx context.Context, op func(context.Context) error, undo func()) error {
	opCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.Timeout)
	if r.timely {
		defer cancel()
		err := op(opCtx)
		if undo != nil && err != nil && !definite(err) {
			r.running.Go(undo)
		}
		return err
	}
	// Op runs in a goroutine of its own, which goes on when the caller can't wait any longer.
	done, gone := make(chan error), make(chan struct{})
	r.running.Go(func() {
		defer cancel()
		err := op(opCtx)
		unknown := err != nil && !definite(err)
		select {
		case done <- err:
		case <-gone:
			unknown = unknown || err == nil // it took effect, and the caller was told otherwise
		}
		if unknown && undo != nil {
			undo()
		}
	})
	defer close(gone)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-opCtx.Done():
		return errNoAnswer
	}
}

// timely returns a client and tells whether its commands end when their context's deadline has passed. Where its options
// don't say so, a single server's client can be had with other time limits, on the same connections.
func timely(client redis.UniversalClient, timeout time.Duration) (redis.UniversalClient, bool) {
	switch c := client.(type) {
	case *redis.Client:
		if !c.Options().ContextTimeoutEnabled {
			return c.WithTimeout(timeout), true
		}
		return c, true
	case *redis.ClusterClient:
		return c, c.Options().ContextTimeoutEnabled
	}
	return client, false
}

// errNoAnswer is the error of a trip that took too long.
var errNoAnswer = errors.New("redis did not answer in time")

// definite tells whether an error of a trip says what Redis did: its own word, or that nothing could be sent.
func definite(err error) bool {
	var dial *net.OpError
	var word redis.Error
	return errors.As(err, &word) || errors.Is(err, ErrHeld) || errors.Is(err, redislock.ErrLockNotHeld) || errors.As(err, &dial) && dial.Op == "dial" ||
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
		if err == nil || errors.Is(err, redislock.ErrLockNotHeld) || sleep.For(ctx, pause.NextBackOff()) != nil {
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
