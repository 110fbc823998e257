package lockredis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/internal/isnil"
	"github.com/endstate-go/endstate/internal/lease"
	"github.com/endstate-go/endstate/lock"
)

// Lock is a lock in Redis or Valkey, 6.2 or newer, alone, with Sentinels or as a Cluster.
type Lock struct {
	client  redis.UniversalClient
	timely  bool // see the function of this name
	cfg     Config
	queues  lease.Queues
	breaker breaker
	wakeUps *wakeUps // nil with NoWakeUp
	mark    string   // how values begin: see obtain.lua

	// What Close ends and waits for.
	life    context.Context
	end     context.CancelFunc
	mu      sync.Mutex // guards closed, so that nothing begins once Close waits
	closed  bool
	running sync.WaitGroup

	limits limits
}

var _ lock.Locker = (*Lock)(nil)

// New returns a lock on a client, which stays the caller's. It sends nothing. Close it at the end, before the client.
// Set ContextTimeoutEnabled in the client's options if you can: without it, Timeout costs a Cluster's client a goroutine for
// each trip, and the client of a single server is used by its WithTimeout, which leaves out the hooks that were added to it.
func New(client redis.UniversalClient, cfg *Config) (*Lock, error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if isnil.Any(client) {
		return nil, fmt.Errorf("%w: client is nil", lock.ErrConfig)
	}
	l := &Lock{cfg: c, breaker: breaker{failures: c.Failures, pause: c.Pause}}
	l.client, l.timely = timely(client, c.Timeout)
	l.life, l.end = context.WithCancel(context.Background())
	l.mark = "."
	if !c.NoWakeUp {
		l.mark, l.wakeUps = "-", &wakeUps{client: client}
	}
	l.limits.timeout = c.Timeout
	return l, nil
}

// Close refuses new calls with ErrUnavailable, waits for those that are under way, and ends the subscription.
func (l *Lock) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.end()
	l.running.Wait()
	l.limits.close()
	if l.wakeUps != nil {
		return l.wakeUps.close()
	}
	return nil
}

// Do implements lock.Locker.
func (l *Lock) Do(ctx context.Context, key string, fn func(context.Context) error) error {
	return l.do(ctx, key, fn, true)
}

// Try implements lock.Locker.
func (l *Lock) Try(ctx context.Context, key string, fn func(context.Context) error) error {
	return l.do(ctx, key, fn, false)
}

func (l *Lock) do(ctx context.Context, key string, fn func(context.Context) error, wait bool) error {
	if err := lease.Check(ctx, key, fn); err != nil {
		return err
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("%w: it is closed", lock.ErrUnavailable)
	}
	l.running.Add(1)
	l.mu.Unlock()
	defer l.running.Done()
	held, err := l.acquire(ctx, key, wait)
	if err != nil {
		return err
	}
	return held.Run(fn)
}

// acquire waits for the key within this process, then at Redis.
func (l *Lock) acquire(ctx context.Context, key string, wait bool) (_ *lease.Lease, err error) {
	entered, holder := l.queues.Enter(ctx, key, wait)
	if !entered {
		held := &lock.HeldError{Key: key, Holder: holder}
		if wait {
			return nil, gaveUp(ctx, held)
		}
		return nil, held
	}
	defer func() {
		if err != nil {
			l.queues.Leave(key)
		}
	}()
	a := &attempt{lock: l, key: key, name: l.cfg.Prefix + key, holder: lease.Holder(ctx), listens: wait && l.wakeUps != nil}
	err = a.obtain(ctx)
	if held, ok := errors.AsType[*lock.HeldError](err); ok && wait {
		err = a.await(ctx, held)
	}
	if err != nil {
		return nil, err
	}
	return a.hold(ctx), nil
}

// await asks again and again until nobody else holds the lock.
func (a *attempt) await(ctx context.Context, held *lock.HeldError) error {
	l := a.lock
	var woken <-chan struct{}
	if l.wakeUps != nil {
		var stop func()
		woken, stop = l.awaitRelease(a.name)
		defer stop()
	}
	wait := l.backoff()
	for {
		timer := time.NewTimer(wait.NextBackOff())
		select {
		case <-woken:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return gaveUp(ctx, held)
		}
		err := a.obtain(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return gaveUp(ctx, held)
		case !errors.As(err, &held):
			return err
		}
	}
}

// gaveUp is the error of a caller whose context ended while it waited.
func gaveUp(ctx context.Context, held *lock.HeldError) error {
	return fmt.Errorf("%w while waiting: %w", context.Cause(ctx), held)
}

func (l *Lock) backoff() backoff.BackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = l.cfg.MinPoll, l.cfg.MaxPoll
	return b
}

// attempt is one caller's way to the lock, and the lock that it has taken.
type attempt struct {
	lock              *Lock
	key, name, holder string
	listens           bool      // to the message of a release
	token             string    // random but for its first byte, and known before Redis is asked, so that what was taken can be given back though the answer got lost
	value             string    // what Redis keeps: the token, then the holder's name
	asked             time.Time // just before Redis was asked, so no later than its TTL began
	fence             int64     // 0: another has the lock
	others            string    // that one's value
}

// obtain asks Redis once. It returns a HeldError when somebody else holds the lock.
func (a *attempt) obtain(ctx context.Context) error {
	l := a.lock
	a.asked = time.Now()
	if err := l.breaker.allow(a.asked); err != nil {
		return err
	}
	a.token = l.mark + rand.Text()
	a.value = a.token + a.holder
	err := a.trip(ctx, (*attempt).take, true)
	if err == nil {
		l.breaker.report(a.asked, nil)
		if a.fence == 0 {
			return &lock.HeldError{Key: a.key, Holder: a.others[min(len(a.token), len(a.others)):]}
		}
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("lock: key %q: %w", a.key, context.Cause(ctx))
	}
	l.breaker.report(time.Now(), err)
	if definite(err) {
		return fmt.Errorf("%w: key %q: %w", lock.ErrUnavailable, a.key, err)
	}
	return fmt.Errorf("%w: key %q: %w", lock.ErrAmbiguous, a.key, err)
}

// holding is a lock that was taken, until it is given back.
type holding struct {
	attempt *attempt
	lease   *lease.Lease
	caller  context.Context // for the log
	keeper  keeper
}

// hold makes a lease of a lock that was taken, which renews itself until it is released.
func (a *attempt) hold(ctx context.Context) *lease.Lease {
	h := &holding{attempt: a, lease: lease.New(ctx, a.fence, &a.lock.queues, a.key), caller: ctx}
	h.lease.Release = h.release
	cfg := &a.lock.cfg
	h.keeper = keeper{ttl: cfg.TTL, margin: cfg.TTL / 10, again: cfg.MinPoll, lease: h}
	h.keeper.start(ctx, a.asked)
	return h.lease
}

func (h *holding) renew(ctx context.Context) error {
	err := h.attempt.trip(ctx, (*attempt).extend, false)
	if errors.Is(err, errNotHeld) {
		err = h.lost("", err)
	}
	return err
}

func (h *holding) lose(err error) {
	h.attempt.lock.cfg.Logger.WarnContext(h.caller, "lease lost", "key", h.attempt.key, "error", err)
	h.lease.Lose(err)
}

func (h *holding) release() error {
	lost := h.keeper.end()
	// Also when the lease is lost: should it be there still, others needn't wait for its end.
	err := h.attempt.trip(context.WithoutCancel(h.caller), (*attempt).giveBack, true)
	switch log := h.attempt.lock.cfg.Logger; {
	case lost != nil:
		return lost
	case errors.Is(err, errNotHeld):
		err = h.lost("when it was to be given back: ", err)
		log.WarnContext(h.caller, "lease lost", "key", h.attempt.key, "error", err)
		return err
	case err != nil:
		log.WarnContext(h.caller, "lock not given back, it ends with its TTL at the latest", "key", h.attempt.key, "error", err)
	}
	return nil
}

func (h *holding) lost(when string, err error) error {
	return fmt.Errorf("%w: key %q: %s%w", lock.ErrLost, h.attempt.key, when, err)
}
