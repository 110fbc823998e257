package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/bsm/redislock"
	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/v9"
)

// Redis is a lock in Redis 5 or newer, alone, with Sentinels or as a Cluster. The lock itself is that of bsm/redislock; this
// type adds what that leaves out: see the package's documentation.
type Redis struct {
	client  redis.UniversalClient
	timely  bool // see the function of this name
	cfg     RedisConfig
	plain   *redislock.Client
	queues  queues
	breaker breaker
	wakeUps *wakeUps // nil with NoWakeUp

	// What Close ends and waits for.
	life    context.Context
	end     context.CancelFunc
	mu      sync.Mutex // guards closed, so that nothing begins once Close waits
	closed  bool
	running sync.WaitGroup
}

var _ Locker = (*Redis)(nil)

// NewRedis returns a lock on a client, which stays the caller's. It sends nothing. Close it at the end, before the client.
// Set ContextTimeoutEnabled in the client's options if you can: without it, Timeout costs a Cluster's client a goroutine for
// each trip, and the client of a single server is used by its WithTimeout, which leaves out the hooks that were added to it.
func NewRedis(client redis.UniversalClient, cfg *RedisConfig) (*Redis, error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if v := reflect.ValueOf(client); client == nil || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, fmt.Errorf("%w: client is nil", ErrConfig)
	}
	r := &Redis{cfg: c, breaker: breaker{failures: c.Failures, pause: c.Pause}}
	r.client, r.timely = timely(client, c.Timeout)
	r.plain = redislock.New(r.client)
	r.life, r.end = context.WithCancel(context.Background())
	if !c.NoWakeUp {
		r.wakeUps = &wakeUps{client: client}
	}
	return r, nil
}

// Close refuses new calls with ErrUnavailable, waits for those that are under way, and ends the subscription.
func (r *Redis) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.end()
	r.running.Wait()
	if r.wakeUps != nil {
		return r.wakeUps.close()
	}
	return nil
}

// Do implements Locker.
func (r *Redis) Do(ctx context.Context, key string, fn func(context.Context) error) error {
	return r.do(ctx, key, fn, true)
}

// Try implements Locker.
func (r *Redis) Try(ctx context.Context, key string, fn func(context.Context) error) error {
	return r.do(ctx, key, fn, false)
}

func (r *Redis) do(ctx context.Context, key string, fn func(context.Context) error, wait bool) error {
	return do(ctx, key, fn, func() (*lease, error) {
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			return nil, fmt.Errorf("%w: it is closed", ErrUnavailable)
		}
		r.running.Add(1)
		r.mu.Unlock()
		l, err := r.acquire(ctx, key, wait)
		if err != nil {
			r.running.Done()
			return nil, err
		}
		release := l.release
		l.release = func() error { defer r.running.Done(); return release() }
		return l, nil
	})
}

// acquire waits for the key within this process, then at Redis.
func (r *Redis) acquire(ctx context.Context, key string, wait bool) (_ *lease, err error) {
	leave, err := r.queues.enter(ctx, key, wait)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			leave()
		}
	}()
	o := &obtaining{redis: r, key: key, name: r.cfg.Prefix + key, holder: holderOf(ctx)}
	lock, err := o.obtain(ctx)
	if held, ok := errors.AsType[*HeldError](err); ok && wait {
		lock, err = o.await(ctx, held)
	}
	if err != nil {
		return nil, err
	}
	return r.hold(ctx, lock, leave), nil
}

// await asks again and again until nobody else holds the lock.
func (o *obtaining) await(ctx context.Context, held *HeldError) (obtained, error) {
	r := o.redis
	var woken <-chan struct{}
	if r.wakeUps != nil {
		var stop func()
		woken, stop = r.awaitRelease(o.name)
		defer stop()
	}
	pause := r.backoff()
	for {
		timer := time.NewTimer(pause.NextBackOff())
		select {
		case <-woken:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return obtained{}, gaveUp(ctx, held)
		}
		lock, err := o.obtain(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return obtained{}, gaveUp(ctx, held)
		case !errors.As(err, &held):
			return lock, err
		}
	}
}

func (r *Redis) backoff() backoff.BackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = r.cfg.MinPoll, r.cfg.MaxPoll
	return b
}

// obtaining is one caller's way to the lock.
type obtaining struct {
	redis             *Redis
	key, name, holder string
}

// obtained is a lock that was taken.
type obtained struct {
	*redislock.Lock
	key   string
	fence int64
	asked time.Time // just before Redis was asked, so no later than its TTL began
}

// obtain asks Redis once. It returns a HeldError when somebody else holds the lock.
func (o *obtaining) obtain(ctx context.Context) (obtained, error) {
	r := o.redis
	if err := r.breaker.allow(time.Now()); err != nil {
		return obtained{}, err
	}
	// Known beforehand, so that what was taken can be given back though the answer got lost.
	token := rand.Text()
	got := make(chan obtained, 1)
	var held *HeldError
	err := r.trip(ctx, func(ctx context.Context) error {
		script := &obtainScript{Scripter: r.client}
		asked := time.Now()
		lock, err := redislock.New(script).Obtain(ctx, o.name, r.cfg.TTL, &redislock.Options{Token: token, Metadata: o.holder})
		switch {
		case err == nil:
			lock.Client = r.plain
			got <- obtained{lock, o.key, script.fence, asked}
		case errors.Is(err, redislock.ErrNotObtained):
			err = &HeldError{o.key, script.value[min(len(token), len(script.value)):]}
		}
		return err
	}, func() { r.giveBackLater(o.name, token+o.holder) })
	switch {
	case err == nil:
		r.breaker.report(time.Now(), nil)
		return <-got, nil
	case errors.As(err, &held):
		r.breaker.report(time.Now(), nil)
		return obtained{}, err
	case ctx.Err() != nil:
		return obtained{}, fmt.Errorf("lock: key %q: %w", o.key, context.Cause(ctx))
	}
	r.breaker.report(time.Now(), err)
	if definite(err) {
		return obtained{}, fmt.Errorf("%w: key %q: %w", ErrUnavailable, o.key, err)
	}
	return obtained{}, fmt.Errorf("%w: key %q: %w", ErrAmbiguous, o.key, err)
}

// hold makes a lease of a lock, which renews itself until it is released.
func (r *Redis) hold(ctx context.Context, lock obtained, leave func()) *lease {
	l := newLease(ctx, lock.fence, leave)
	k := keep(ctx, lock.asked, &keeper{
		ttl: r.cfg.TTL, margin: r.cfg.TTL / 10, pause: r.cfg.MinPoll,
		renew: func(ctx context.Context) error {
			return r.trip(ctx, func(ctx context.Context) error {
				err := lock.Refresh(ctx, r.cfg.TTL, nil)
				if errors.Is(err, redislock.ErrNotObtained) {
					err = fmt.Errorf("%w: key %q: it is no longer in Redis, or somebody else's", ErrLost, lock.key)
				}
				return err
			}, nil)
		},
		lose: func(err error) {
			r.cfg.Logger.WarnContext(ctx, "lease lost", "key", lock.key, "error", err)
			l.lose(err)
		},
	})
	l.release = func() error {
		lost := k.end()
		// Also when the lease is lost: should it be there still, others needn't wait for its end.
		value := lock.Token() + lock.Metadata()
		err := r.trip(context.WithoutCancel(ctx), func(ctx context.Context) error {
			return r.compareAndDelete(ctx, lock.Key(), value)
		}, func() { r.giveBackLater(lock.Key(), value) })
		switch {
		case lost != nil:
			return lost
		case errors.Is(err, redislock.ErrLockNotHeld):
			err = fmt.Errorf("%w: key %q: when it was to be given back, it was no longer in Redis, or somebody else's", ErrLost, lock.key)
			r.cfg.Logger.WarnContext(ctx, "lease lost", "key", lock.key, "error", err)
			return err
		case err != nil:
			r.cfg.Logger.WarnContext(ctx, "lock not given back, it ends with its TTL at the latest", "key", lock.key, "error", err)
		}
		return nil
	}
	return l
}
