package lockredis_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/lock/lockredis"
)

// counting notes the commands that a client sends; each is a trip of its own.
type counting struct {
	mu       sync.Mutex
	commands []string
}

func (c *counting) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (c *counting) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.note(cmd.Name())
		return next(ctx, cmd)
	}
}

func (c *counting) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.note("pipeline")
		return next(ctx, cmds)
	}
}

func (c *counting) note(command string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commands = append(c.commands, command)
}

func (c *counting) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.commands = nil }()
	return c.commands
}

func TestOneTripToTakeAndOneToGiveBack(t *testing.T) {
	opts := *dbtest.Redis(t).Options()
	opts.ContextTimeoutEnabled = true // hooks are called
	rdb := redis.NewClient(&opts)
	defer rdb.Close()
	hook := &counting{}
	rdb.AddHook(hook)
	l := newLock(t, rdb, quick())
	n := 0
	require.NoError(t, l.Do(t.Context(), "warm", ran(&n))) // Redis learns the scripts
	hook.take()
	require.NoError(t, l.Do(t.Context(), "k", ran(&n)))
	require.Equal(t, []string{"evalsha", "evalsha"}, hook.take())
	require.NoError(t, l.Do(t.Context(), "k", func(ctx context.Context) error {
		hook.take()
		require.ErrorIs(t, l.Try(ctx, "k", never(t)), lock.ErrHeld)
		require.Empty(t, hook.take(), "what this process holds needs no question")
		return nil
	}))
}

// With polls an hour apart, nothing but the wake-ups hands the lock on.
func TestWakeUps(t *testing.T) {
	url := dbtest.RedisURL(t)
	const clients, each = 10, 10
	cfg := &lockredis.Config{Timeout: 2 * time.Second, MinPoll: time.Hour, MaxPoll: time.Hour, Logger: discard()}
	begin := make(chan struct{})
	var all sync.WaitGroup
	for range clients {
		l := newLock(t, dbtest.RedisOn(t, url), cfg)
		for range each {
			all.Go(func() {
				<-begin
				if err := l.Do(t.Context(), "k", func(context.Context) error { return nil }); err != nil {
					t.Errorf("Do: %v", err)
				}
			})
		}
	}
	close(begin)
	all.Wait()
	empty(t, dbtest.RedisOn(t, url))
}

// A message costs Redis more than the rest of a release, and mostly nobody listens.
func TestAReleaseTellsOnlyThoseWhoWait(t *testing.T) {
	t.Parallel()
	server := dbtest.StartRedis(t)
	rdb := client(t, server.Addr())
	calls := func(command string) string {
		stats := rdb.InfoMap(t.Context(), "commandstats").Item("Commandstats", "cmdstat_"+command)
		calls, _, _ := strings.Cut(stats, ",")
		return calls
	}
	cfg := quick()
	cfg.MinPoll, cfg.MaxPoll = time.Minute, time.Minute
	holder, waiter := newLock(t, client(t, server.Addr()), cfg), newLock(t, client(t, server.Addr()), cfg)
	n := 0
	require.NoError(t, holder.Do(t.Context(), "k", ran(&n)))
	require.NoError(t, holder.Do(t.Context(), "k", func(ctx context.Context) error {
		require.ErrorIs(t, waiter.Try(ctx, "k", never(t)), lock.ErrHeld, "who tries doesn't wait")
		return nil
	}))
	require.Empty(t, calls("publish"))

	done := make(chan error, 1)
	require.NoError(t, holder.Do(t.Context(), "k", func(ctx context.Context) error {
		go func() { done <- waiter.Do(t.Context(), "k", func(context.Context) error { return nil }) }()
		eventually(t, func() bool { return strings.HasPrefix(rdb.Get(ctx, "endstate:lock:k").Val(), "+") }, "the waiter leaves its mark")
		renewals := calls("pexpire")
		eventually(t, func() bool { return calls("pexpire") != renewals }, "what is marked is renewed")
		return nil
	}))
	require.NoError(t, <-done)
	require.Equal(t, "calls=1", calls("publish"), "the waiter's own release finds nobody")
}

// A restart wakes waiters too: the lock is gone with it. They get it, or are told that Redis was away.
func TestWakeUpsAfterARestart(t *testing.T) {
	t.Parallel()
	server := dbtest.StartRedis(t)
	cfg := &lockredis.Config{Timeout: 2 * time.Second, MinPoll: time.Minute, MaxPoll: time.Minute, Logger: discard()}
	holder, waiter := newLock(t, client(t, server.Addr()), cfg), newLock(t, client(t, server.Addr()), cfg)
	rdb := client(t, server.Addr())
	subscribed := func() bool {
		return rdb.PubSubNumSub(t.Context(), "endstate:lock:k").Val()["endstate:lock:k"] == 1
	}
	done := make(chan error, 1)
	err := holder.Do(t.Context(), "k", func(context.Context) error {
		go func() { done <- waiter.Do(t.Context(), "k", func(context.Context) error { return nil }) }()
		eventually(t, subscribed, "the waiter listens")
		server.Kill()
		require.NoError(t, server.Start())
		return nil
	})
	require.ErrorIs(t, err, lock.ErrLost, "the lock was gone")
	select {
	case err := <-done: // woken by the new subscription
		require.True(t, err == nil || errors.Is(err, lock.ErrUnavailable) || errors.Is(err, lock.ErrAmbiguous), "%v", err)
	case <-time.After(patience):
		t.Fatal("the waiter was not woken")
	}
}

var keys = flag.Int("keys", 2_000, "how many keys TestBackToIdle locks")

func TestBackToIdle(t *testing.T) {
	rdb := dbtest.Redis(t)
	l := newLock(t, rdb, nil)
	lockAll := func(n int) {
		var all sync.WaitGroup
		const workers = 16
		for w := range workers {
			all.Go(func() {
				for i := w; i < n; i += workers {
					if err := l.Do(t.Context(), fmt.Sprint("key-", i), func(context.Context) error { return nil }); err != nil {
						t.Errorf("Do: %v", err)
					}
				}
			})
		}
		all.Wait()
	}
	lockAll(100) // connections, scripts
	idle := func() (goroutines int, heap uint64) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc
	}
	goroutines, heap := idle()
	lockAll(*keys)
	require.Zero(t, l.Keys())
	eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines+2 }, "goroutines end")
	after, heapAfter := idle()
	t.Logf("%d keys, goroutines %d -> %d, heap %d -> %d KiB", *keys, goroutines, after, heap>>10, heapAfter>>10)
	require.Less(t, heapAfter, heap+1<<20, "memory")
	empty(t, rdb)
}

// BenchmarkHandOver measures how long after a release the next of a hundred waiters has the lock.
func BenchmarkHandOver(b *testing.B) {
	const waiters = 100
	for _, clients := range []int{1, 4, 100} {
		b.Run(fmt.Sprint(clients, "-clients"), func(b *testing.B) {
			url := dbtest.RedisURL(b)
			locks := make([]*lockredis.Lock, clients)
			for i := range locks {
				locks[i] = newLock(b, dbtest.RedisOn(b, url), nil)
			}
			var gaps []time.Duration // the holder's alone
			for b.Loop() {
				var released time.Time
				var all sync.WaitGroup
				for i := range waiters {
					all.Go(func() {
						err := locks[i%clients].Do(b.Context(), "k", func(context.Context) error {
							if !released.IsZero() {
								gaps = append(gaps, time.Since(released))
							}
							time.Sleep(time.Millisecond) // some work, while which the others come to wait
							released = time.Now()
							return nil
						})
						if err != nil {
							b.Error(err)
						}
					})
				}
				all.Wait()
			}
			slices.Sort(gaps)
			at := func(q float64) float64 { return gaps[int(q*float64(len(gaps)-1))].Seconds() * 1000 }
			b.ReportMetric(at(0.5), "p50-ms")
			b.ReportMetric(at(0.99), "p99-ms")
		})
	}
}
