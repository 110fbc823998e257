package lockredis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/internal/lease"
	"github.com/endstate-go/endstate/lock"
)

// Lock is a lock in Redis 5 or newer, alone, with Sentinels or as a Cluster.
type Lock struct {
	client  redis.UniversalClient
	timely  bool // see the function of this name
	cfg     Config
	queues  lease.Queues
	breaker breaker
	wakeUps *wakeUps // nil with NoWakeUp

	// What Close ends and waits for.
	life    context.Context
	end     context.CancelFunc
	mu      sync.Mutex // guards closed, so that nothing begins once Close waits
	closed  bool
	running sync.WaitGroup
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
	if v := reflect.ValueOf(client); client == nil || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, fmt.Errorf("%w: client is nil", lock.ErrConfig)
	}
	l := &Lock{cfg: c, breaker: breaker{failures: c.Failures, pause: c.Pause}}
	l.client, l.timely = timely(client, c.Timeout)
	l.life, l.end = context.WithCancel(context.Background())
	if !c.NoWakeUp {
		l.wakeUps = &wakeUps{client: client}
	}
	return l, nil
}

// Close refuses new calls with ErrUnavailable, waits for those that are under way, and ends the subscription.
func (l *Lock) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.end()
	l.running.Wait()
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
	return lease.Do(ctx, key, fn, func() (*lease.Lease, error) {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return nil, fmt.Errorf("%w: it is closed", lock.ErrUnavailable)
		}
		l.running.Add(1)
		l.mu.Unlock()
		held, err := l.acquire(ctx, key, wait)
		if err != nil {
			l.running.Done()
			return nil, err
		}
		release := held.Release
		held.Release = func() error { defer l.running.Done(); return release() }
		return held, nil
	})
}

// acquire waits for the key within this process, then at Redis.
func (l *Lock) acquire(ctx context.Context, key string, wait bool) (_ *lease.Lease, err error) {
	leave, holder := l.queues.Enter(ctx, key, wait)
	if leave == nil {
		held := &lock.HeldError{Key: key, Holder: holder}
		if wait {
			return nil, gaveUp(ctx, held)
		}
		return nil, held
	}
	defer func() {
		if err != nil {
			leave()
		}
	}()
	o := &obtaining{lock: l, key: key, name: l.cfg.Prefix + key, holder: lease.Holder(ctx)}
	got, err := o.obtain(ctx)
	if held, ok := errors.AsType[*lock.HeldError](err); ok && wait {
		got, err = o.await(ctx, held)
	}
	if err != nil {
		return nil, err
	}
	return l.hold(ctx, got, leave), nil
}

// await asks again and again until nobody else holds the lock.
func (o *obtaining) await(ctx context.Context, held *lock.HeldError) (obtained, error) {
	l := o.lock
	var woken <-chan struct{}
	if l.wakeUps != nil {
		var stop func()
		woken, stop = l.awaitRelease(o.name)
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
			return obtained{}, gaveUp(ctx, held)
		}
		got, err := o.obtain(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return obtained{}, gaveUp(ctx, held)
		case !errors.As(err, &held):
			return got, err
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

// obtaining is one caller's way to the lock.
type obtaining struct {
	lock              *Lock
	key, name, holder string
}

// obtained is a lock that was taken.
type obtained struct {
	key, name, value string
	fence            int64
	asked            time.Time // just before Redis was asked, so no later than its TTL began
}

// obtain asks Redis once. It returns a HeldError when somebody else holds the lock.
func (o *obtaining) obtain(ctx context.Context) (obtained, error) {
	l := o.lock
	if err := l.breaker.allow(time.Now()); err != nil {
		return obtained{}, err
	}
	// Known beforehand, so that what was taken can be given back though the answer got lost.
	token := rand.Text()
	type answer struct {
		obtained
		others string
	}
	answers := make(chan answer, 1)
	err := l.trip(ctx, func(ctx context.Context) error {
		a := answer{obtained: obtained{key: o.key, name: o.name, value: token + o.holder, asked: time.Now()}}
		var err error
		if a.fence, a.others, err = l.take(ctx, o.name, token, o.holder); err == nil {
			answers <- a
		}
		return err
	}, func() { l.giveBackLater(o.name, token+o.holder) })
	if err == nil {
		l.breaker.report(time.Now(), nil)
		a := <-answers
		if a.fence == 0 {
			return obtained{}, &lock.HeldError{Key: o.key, Holder: a.others[min(len(token), len(a.others)):]}
		}
		return a.obtained, nil
	}
	if ctx.Err() != nil {
		return obtained{}, fmt.Errorf("lock: key %q: %w", o.key, context.Cause(ctx))
	}
	l.breaker.report(time.Now(), err)
	if definite(err) {
		return obtained{}, fmt.Errorf("%w: key %q: %w", lock.ErrUnavailable, o.key, err)
	}
	return obtained{}, fmt.Errorf("%w: key %q: %w", lock.ErrAmbiguous, o.key, err)
}

// hold makes a lease of a lock, which renews itself until it is released.
func (l *Lock) hold(ctx context.Context, got obtained, leave func()) *lease.Lease {
	held := lease.New(ctx, got.fence, leave)
	k := keep(ctx, got.asked, &keeper{
		ttl: l.cfg.TTL, margin: l.cfg.TTL / 10, again: l.cfg.MinPoll,
		renew: func(ctx context.Context) error {
			err := l.trip(ctx, func(ctx context.Context) error { return l.extend(ctx, got.name, got.value) }, nil)
			if errors.Is(err, errNotHeld) {
				err = fmt.Errorf("%w: key %q: %w", lock.ErrLost, got.key, err)
			}
			return err
		},
		lose: func(err error) {
			l.cfg.Logger.WarnContext(ctx, "lease lost", "key", got.key, "error", err)
			held.Lose(err)
		},
	})
	held.Release = func() error {
		lost := k.end()
		// Also when the lease is lost: should it be there still, others needn't wait for its end.
		err := l.trip(context.WithoutCancel(ctx), func(ctx context.Context) error {
			return l.compareAndDelete(ctx, got.name, got.value)
		}, func() { l.giveBackLater(got.name, got.value) })
		switch {
		case lost != nil:
			return lost
		case errors.Is(err, errNotHeld):
			err = fmt.Errorf("%w: key %q: when it was to be given back: %w", lock.ErrLost, got.key, err)
			l.cfg.Logger.WarnContext(ctx, "lease lost", "key", got.key, "error", err)
			return err
		case err != nil:
			l.cfg.Logger.WarnContext(ctx, "lock not given back, it ends with its TTL at the latest", "key", got.key, "error", err)
		}
		return nil
	}
	return held
}
