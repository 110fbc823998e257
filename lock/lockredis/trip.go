package lockredis

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/internal/sleep"
)

// trip runs op, one trip to Redis, which takes no longer than Timeout: a hanging Redis must not keep callers for go-redis's
// own timeouts, which are seconds, several times over. With undo, when it isn't known what op did, the lock is given back in
// the background once Redis can be asked again; Close waits for it.
func (a *attempt) trip(ctx context.Context, op func(*attempt, context.Context) error, undo bool) error {
	l := a.lock
	limited, limit := l.limits.apply(ctx)
	if l.timely {
		err := op(a, limited)
		if undo && err != nil && !definite(err) {
			lost := *a
			l.running.Go(lost.giveBackLater)
		}
		return err
	}
	// Op runs in a goroutine of its own, on a copy, and goes on when the caller can't wait any longer.
	type end struct {
		a   attempt
		err error
	}
	own, done, gone := *a, make(chan end), make(chan struct{})
	l.running.Go(func() {
		err := op(&own, limited)
		unknown := err != nil && !definite(err)
		select {
		case done <- end{own, err}:
		case <-gone:
			unknown = unknown || err == nil // it took effect, and the caller was told otherwise
		}
		if unknown && undo {
			own.giveBackLater()
		}
	})
	defer close(gone)
	select {
	case end := <-done:
		*a = end.a
		return end.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-limit.Done():
		return errNoAnswer
	}
}

// limits are the contexts that end trips in time. A timer for each trip is a good part of what a lock costs, so trips that
// begin within an eighth of Timeout share one, and end up to so much before it.
type limits struct {
	timeout time.Duration

	mu      sync.Mutex
	current context.Context
	cancel  context.CancelFunc
	until   time.Time // when the next one is due
}

// apply returns ctx with the end of the current limit in the place of its own, and that limit.
func (l *limits) apply(ctx context.Context) (limited, limit context.Context) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !now.Before(l.until) {
		l.current, l.cancel = context.WithDeadline(context.Background(), now.Add(l.timeout))
		l.until = now.Add(l.timeout / 8)
	}
	return limitedContext{l.current, ctx}, l.current
}

// close ends the last limit's timer. No trip is under way.
func (l *limits) close() {
	if l.cancel != nil {
		l.cancel()
	}
}

// limitedContext ends with a limit, and has a caller's values, for the client's hooks.
type limitedContext struct {
	context.Context
	values context.Context
}

func (c limitedContext) Value(key any) any { return c.values.Value(key) }

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
func (a *attempt) giveBackLater() {
	l := a.lock
	ctx, cancel := context.WithTimeout(l.life, l.cfg.TTL)
	defer cancel()
	wait := l.backoff()
	for {
		limited, _ := l.limits.apply(context.WithoutCancel(ctx))
		err := a.giveBack(limited)
		if err == nil || errors.Is(err, errNotHeld) || sleep.For(ctx, wait.NextBackOff()) != nil {
			return
		}
	}
}
