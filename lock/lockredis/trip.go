package lockredis

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/internal/sleep"
)

// trip runs op, one trip to Redis, which takes no longer than Timeout: a hanging Redis must not keep callers for go-redis's
// own timeouts, which are seconds, several times over. When it isn't known what op did, undo runs in the background once
// Redis could be asked again; Close waits for it.
func (l *Lock) trip(ctx context.Context, op func(context.Context) error, undo func()) error {
	opCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.Timeout)
	if l.timely {
		defer cancel()
		err := op(opCtx)
		if undo != nil && err != nil && !definite(err) {
			l.running.Go(undo)
		}
		return err
	}
	// Op runs in a goroutine of its own, which goes on when the caller can't wait any longer.
	done, gone := make(chan error), make(chan struct{})
	l.running.Go(func() {
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

// timely returns a client and reports whether its commands end when their context's deadline has passed. Where its options
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

var (
	// errNoAnswer is the error of a trip that took too long.
	errNoAnswer = errors.New("redis did not answer in time")
	// errNotHeld is Redis's word that a lock is gone, or another's.
	errNotHeld = errors.New("it is no longer in Redis, or somebody else's")
)

// definite reports whether an error of a trip says what Redis did: its own word, or that nothing could be sent.
func definite(err error) bool {
	var dial *net.OpError
	var word redis.Error
	return errors.As(err, &word) || errors.Is(err, errNotHeld) || errors.As(err, &dial) && dial.Op == "dial" ||
		errors.Is(err, redis.ErrClosed) || errors.Is(err, redis.ErrPoolTimeout)
}

// giveBackLater deletes what an attempt whose answer got lost may have left, as soon as Redis answers, until its TTL would
// have passed anyway.
func (l *Lock) giveBackLater(name, value string) {
	ctx, cancel := context.WithTimeout(l.life, l.cfg.TTL)
	defer cancel()
	wait := l.backoff()
	for {
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.Timeout)
		err := l.compareAndDelete(attempt, name, value)
		cancel()
		if err == nil || errors.Is(err, errNotHeld) || sleep.For(ctx, wait.NextBackOff()) != nil {
			return
		}
	}
}
