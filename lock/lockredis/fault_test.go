package lockredis_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/lock/lockredis"
)

// patience bounds what should happen soon.
const patience = time.Minute

// client connects without go-redis's own patience being changed: its timeouts are seconds, and it repeats.
func client(t testing.TB, addr string) *redis.Client {
	t.Helper()
	return dbtest.RedisOn(t, "redis://"+addr+"/0")
}

// patient is a client that waits for an answer longer than any test does: a call that returns was ended by the lock's own limit.
func patient(t testing.TB, addr string) *redis.Client {
	t.Helper()
	return dbtest.RedisOn(t, "redis://"+addr+"/0?read_timeout=1h&write_timeout=1h")
}

func eventually(t testing.TB, yes func() bool, what string) {
	t.Helper()
	require.Eventually(t, yes, patience, 5*time.Millisecond, what)
}

// empty waits until Redis has no key.
func empty(t testing.TB, rdb redis.UniversalClient) {
	t.Helper()
	eventually(t, func() bool { return rdb.DBSize(context.WithoutCancel(t.Context())).Val() == 0 }, "a key is left behind")
}

// never is a function that must not run.
func never(t testing.TB) func(context.Context) error {
	return func(context.Context) error {
		t.Error("the function ran without the lock")
		return nil
	}
}

// ran counts.
func ran(n *int) func(context.Context) error {
	return func(context.Context) error { *n++; return nil }
}

// requireLost waits for the lease's end.
func requireLost(t testing.TB, ctx context.Context) {
	t.Helper()
	select {
	case <-ctx.Done():
		require.ErrorIs(t, context.Cause(ctx), lock.ErrLost)
	case <-time.After(patience):
		t.Fatal("the lease was lost, and its context goes on")
	}
}

// F11: Redis is killed, and comes back empty after the TTL.
func TestRedisKilledWhileHeld(t *testing.T) {
	t.Parallel()
	server := dbtest.StartRedis(t)
	l := newLock(t, client(t, server.Addr()), quick())
	other := newLock(t, client(t, server.Addr()), quick())
	err := l.Do(t.Context(), "k", func(ctx context.Context) error {
		server.Kill()
		requireLost(t, ctx)                // by the clock, since nobody can be asked
		require.NoError(t, server.Start()) // with nothing in it
		n := 0
		eventually(t, func() bool { _ = other.Try(t.Context(), "k", ran(&n)); return n > 0 }, "another takes over")
		return nil
	})
	require.ErrorIs(t, err, lock.ErrLost)
	n := 0
	require.NoError(t, l.Do(t.Context(), "k", ran(&n)))
	require.Equal(t, 1, n)
	empty(t, client(t, server.Addr()))
}

// F11: Redis comes back empty within the TTL.
func TestRedisRestartedEmptyWhileHeld(t *testing.T) {
	t.Parallel()
	server := dbtest.StartRedis(t)
	cfg := &lockredis.Config{TTL: 30 * time.Second, Timeout: 2 * time.Second, Logger: discard()}
	l := newLock(t, client(t, server.Addr()), cfg)
	err := l.Do(t.Context(), "k", func(ctx context.Context) error {
		server.Kill()
		require.NoError(t, server.Start())
		requireLost(t, ctx)
		require.ErrorContains(t, context.Cause(ctx), "it is no longer in Redis", "by the next renewal, and not by the clock")
		return nil
	})
	require.ErrorIs(t, err, lock.ErrLost)
}

// F11: Redis is flushed.
func TestFlushAllWhileHeld(t *testing.T) {
	t.Parallel()
	server := dbtest.StartRedis(t)
	rdb := client(t, server.Addr())
	l, other := newLock(t, client(t, server.Addr()), quick()), newLock(t, client(t, server.Addr()), quick())
	var first, second int64
	err := l.Do(t.Context(), "k", func(ctx context.Context) error {
		first, _ = lock.Token(ctx)
		require.NoError(t, rdb.FlushAll(t.Context()).Err())
		require.NoError(t, other.Try(t.Context(), "k", func(ctx context.Context) error {
			second, _ = lock.Token(ctx)
			return nil
		}), "the lock is free")
		requireLost(t, ctx)
		return ctx.Err()
	})
	require.ErrorIs(t, err, lock.ErrLost)
	require.ErrorIs(t, err, context.Canceled, "what the function returned is there too")
	require.Greater(t, second, first, "whoever compares tokens refuses the first")
	empty(t, rdb)
}

func TestReleaseOfALockThatAnotherTook(t *testing.T) {
	t.Parallel()
	server := dbtest.StartRedis(t)
	rdb := client(t, server.Addr())
	l := newLock(t, client(t, server.Addr()), quick())
	err := l.Do(t.Context(), "k", func(ctx context.Context) error {
		return rdb.Set(ctx, "endstate:lock:k", "another's", 0).Err()
	})
	require.ErrorIs(t, err, lock.ErrLost)
	require.Equal(t, "another's", rdb.Get(t.Context(), "endstate:lock:k").Val())
}

func TestRenewalHoldsForLongerThanTheTTL(t *testing.T) {
	t.Parallel()
	server := dbtest.StartRedis(t)
	rdb := client(t, server.Addr())
	l, other := newLock(t, client(t, server.Addr()), quick()), newLock(t, client(t, server.Addr()), quick())
	require.NoError(t, l.Do(t.Context(), "k", func(ctx context.Context) error {
		// Redis itself tells when three renewals have been there.
		renewed, last := 0, time.Duration(0)
		eventually(t, func() bool {
			ttl := rdb.PTTL(ctx, "endstate:lock:k").Val()
			if ttl > last {
				renewed++
			}
			last = ttl
			return renewed > 4
		}, "it is renewed")
		require.ErrorIs(t, other.Try(ctx, "k", never(t)), lock.ErrHeld)
		return ctx.Err()
	}))
	empty(t, rdb)
}

// clients are those that differ in how their trips are bounded: by time limits of their own, by the deadline of a context, and
// by a goroutine that is left behind.
var clients = map[string]func(testing.TB, string) redis.UniversalClient{
	"": func(t testing.TB, addr string) redis.UniversalClient { return patient(t, addr) },
	", client with context timeouts": func(t testing.TB, addr string) redis.UniversalClient {
		c := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		return c
	},
	", ring": func(t testing.TB, addr string) redis.UniversalClient {
		c := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": addr}, HeartbeatFrequency: time.Hour})
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		return c
	},
}

// hangs are the ways in which a Redis that is there doesn't answer.
func hangs(t *testing.T, run func(t *testing.T, rdb *redis.Client, hang, goOn func(), locks redis.UniversalClient)) {
	for name, connect := range clients {
		t.Run("stopped process"+name, func(t *testing.T) {
			t.Parallel()
			server := dbtest.StartRedis(t)
			run(t, client(t, server.Addr()), server.Pause, server.Resume, connect(t, server.Addr()))
		})
		t.Run("replies lost"+name, func(t *testing.T) {
			t.Parallel()
			server := dbtest.StartRedis(t)
			p := dbtest.NewProxy(t, server.Addr())
			run(t, client(t, server.Addr()), func() { p.NoReplies.Store(true) }, func() {
				require.Positive(t, p.LostReplies.Load(), "the fault fired")
				p.NoReplies.Store(false)
				p.Cut() // what was swallowed will never be answered
			}, connect(t, p.Addr()))
		})
	}
	t.Run("client pause", func(t *testing.T) {
		t.Parallel()
		server := dbtest.StartRedis(t)
		rdb := client(t, server.Addr())
		run(t, rdb,
			func() { require.NoError(t, rdb.Do(t.Context(), "client", "pause", 20_000, "all").Err()) },
			func() {}, patient(t, server.Addr())) // it goes on by itself: a paused server would not be told to
	})
	t.Run("black hole", func(t *testing.T) {
		t.Parallel()
		server := dbtest.StartRedis(t)
		p := dbtest.NewProxy(t, server.Addr())
		run(t, client(t, server.Addr()), func() { p.NoRequests.Store(true) }, func() {
			require.Positive(t, p.LostRequests.Load(), "the fault fired")
			p.NoRequests.Store(false)
			p.Cut()
		}, patient(t, p.Addr()))
	})
}

// F11, F49: Redis hangs, or its answers get lost on connections that stay.
func TestRedisHangs(t *testing.T) {
	t.Parallel()
	hangs(t, func(t *testing.T, rdb *redis.Client, hang, goOn func(), locks redis.UniversalClient) {
		cfg := quick()
		cfg.Pause = 10 * time.Second // in which the call after the failures has to come
		cfg.TTL = 10 * time.Minute   // so that it is deleted, and not just over
		l := newLock(t, locks, cfg)
		n := 0
		require.NoError(t, l.Do(t.Context(), "warm", ran(&n)))

		hang()
		for range 3 {
			require.ErrorIs(t, l.Do(t.Context(), "k", never(t)), lock.ErrAmbiguous)
		}
		err := l.Do(t.Context(), "k", never(t))
		require.ErrorIs(t, err, lock.ErrUnavailable, "not asked any more")
		require.ErrorContains(t, err, "failed 3 times in a row")

		goOn()
		eventually(t, func() bool { _ = l.Try(t.Context(), "k", ran(&n)); return n > 1 }, "the lock works again")
		empty(t, rdb) // attempts whose answers got lost have left nothing
	})
}

func TestRedisHangsWhileHeld(t *testing.T) {
	t.Parallel()
	hangs(t, func(t *testing.T, rdb *redis.Client, hang, goOn func(), locks redis.UniversalClient) {
		l := newLock(t, locks, quick())
		err := l.Do(t.Context(), "k", func(ctx context.Context) error {
			hang()
			requireLost(t, ctx)
			return nil
		})
		require.ErrorIs(t, err, lock.ErrLost)
		goOn()
		empty(t, rdb)
	})
}

// The answer to a release gets lost: the caller isn't kept, and the lock is given back all the same.
func TestRedisHangsAtRelease(t *testing.T) {
	t.Parallel()
	hangs(t, func(t *testing.T, rdb *redis.Client, hang, goOn func(), locks redis.UniversalClient) {
		l := newLock(t, locks, &lockredis.Config{TTL: 10 * time.Minute, Timeout: 2 * time.Second, Logger: discard()})
		require.NoError(t, l.Do(t.Context(), "k", func(context.Context) error {
			hang()
			return nil
		}), "the work was done under the lock")
		goOn()
		eventually(t, func() bool { return rdb.DBSize(t.Context()).Val() == 0 }, "it is given back, not left to its TTL")
	})
}

func TestRedisDownFromTheStart(t *testing.T) {
	t.Parallel()
	server := dbtest.StartRedis(t)
	server.Kill()
	cfg := quick()
	cfg.Pause = 50 * time.Millisecond
	l := newLock(t, client(t, server.Addr()), cfg)
	for range 5 {
		err := l.Do(t.Context(), "k", never(t))
		// The client may still be trying to connect when its time is over.
		require.True(t, errors.Is(err, lock.ErrUnavailable) || errors.Is(err, lock.ErrAmbiguous), "%v", err)
	}
	require.NoError(t, server.Start())
	n := 0
	eventually(t, func() bool { _ = l.Do(t.Context(), "k", ran(&n)); return n > 0 }, "it works once Redis is there")
}

// F11: Redis refuses.
func TestRedisRefuses(t *testing.T) {
	t.Parallel()
	primary := dbtest.StartRedis(t)
	for name, args := range map[string][]string{
		"out of memory":     {"--maxmemory", "1", "--maxmemory-policy", "noeviction"},
		"a replica":         {"--replicaof", fmt.Sprint("127.0.0.1 ", port(primary.Addr()))},
		"password required": {"--requirepass", "secret"},
		"too few replicas":  {"--min-replicas-to-write", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			server := dbtest.StartRedis(t, args...)
			l := newLock(t, client(t, server.Addr()), quick())
			err := l.Do(t.Context(), "k", never(t))
			require.ErrorIs(t, err, lock.ErrUnavailable)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func port(addr string) string { return addr[len("127.0.0.1:"):] }

func TestAKeyOfSomethingElse(t *testing.T) {
	rdb := dbtest.Redis(t)
	require.NoError(t, rdb.LPush(t.Context(), "endstate:lock:k", "a list").Err())
	l := newLock(t, rdb, quick())
	err := l.Do(t.Context(), "k", never(t))
	require.ErrorIs(t, err, lock.ErrUnavailable)
	require.ErrorContains(t, err, "WRONGTYPE")
}

func TestCancelledWaitersLeaveNothing(t *testing.T) {
	t.Parallel()
	server := dbtest.StartRedis(t)
	rdb := client(t, server.Addr())
	holder := newLock(t, client(t, server.Addr()), quick())
	var waiters []*lockredis.Lock
	for range 5 {
		waiters = append(waiters, newLock(t, client(t, server.Addr()), quick()))
	}
	require.NoError(t, holder.Do(t.Context(), "k", func(context.Context) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var all sync.WaitGroup
		var told atomic.Int32
		for i := range 50 {
			all.Go(func() {
				if errors.Is(waiters[i%5].Do(ctx, "k", never(t)), context.Canceled) {
					told.Add(1)
				}
			})
		}
		subscribers := func() int64 { return rdb.PubSubNumSub(t.Context(), "endstate:lock:k").Val()["endstate:lock:k"] }
		eventually(t, func() bool { return subscribers() == 5 }, "one waiter of each client listens")
		cancel()
		all.Wait()
		require.EqualValues(t, 50, told.Load())
		eventually(t, func() bool { return subscribers() == 0 }, "nobody listens any more")
		return nil
	}))
	for _, w := range waiters {
		require.Zero(t, w.Keys())
	}
	empty(t, rdb)
}
