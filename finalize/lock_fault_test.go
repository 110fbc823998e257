package finalize_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/testserver"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/lock/lockredis"
)

// severalLocks is one lock service seen by several processes: each call uses the next one's client.
type severalLocks struct {
	clients []*lockredis.Lock
	calls   atomic.Int64
}

func (s *severalLocks) Do(ctx context.Context, key string, fn func(context.Context) error) error {
	return s.clients[int(s.calls.Add(1))%len(s.clients)].Do(ctx, key, fn)
}

// F11: whatever becomes of Redis while one call prepares and the others wait, one transition commits, with one set of events, and
// with FailOpen nobody is kept.
func TestRedisFaultsNeverBreakThePromise(t *testing.T) {
	for name, fault := range map[string]struct {
		fire, fix func(*testing.T, *testserver.Redis)
	}{
		"killed":          {func(_ *testing.T, r *testserver.Redis) { r.Kill() }, func(t *testing.T, r *testserver.Redis) { require.NoError(t, r.Start()) }},
		"restarted empty": {func(t *testing.T, r *testserver.Redis) { r.Kill(); require.NoError(t, r.Start()) }, nil},
		"flushed":         {func(t *testing.T, r *testserver.Redis) { redisDo(t, r, "flushall") }, nil},
		"client pause":    {func(t *testing.T, r *testserver.Redis) { redisDo(t, r, "client", "pause", 2000, "all") }, nil},
		"stopped":         {func(_ *testing.T, r *testserver.Redis) { r.Pause() }, func(_ *testing.T, r *testserver.Redis) { r.Resume() }},
		"out of memory":   {func(t *testing.T, r *testserver.Redis) { redisDo(t, r, "config", "set", "maxmemory", "1") }, nil},
		"read-only": {func(t *testing.T, r *testserver.Redis) {
			redisDo(t, r, "config", "set", "min-replicas-to-write", "1")
		}, nil},
	} {
		for policy, onFailure := range map[string]finalize.LockFailure{"fail open": finalize.FailOpen, "fail closed": finalize.FailClosed} {
			t.Run(name+", "+policy, func(t *testing.T) {
				t.Parallel()
				server := dbtest.StartRedis(t)
				locks := &severalLocks{}
				for range 3 {
					locks.clients = append(locks.clients, redisLock(t, server.URL(), time.Second))
				}
				each(t, func(t *testing.T, w *world) {
					key := w.open("b")
					var begin sync.Once
					begun, fired := make(chan struct{}), make(chan struct{})
					stages := preparing("b", func(ctx context.Context) (string, error) {
						w.notePrepared("b")
						begin.Do(func() { close(begun) })
						<-fired
						select { // work that heeds its lease, and takes longer than it
						case <-ctx.Done():
							return "", ctx.Err()
						case <-time.After(1500 * time.Millisecond):
							return "scored", nil
						}
					})
					const callers = 9
					receipts, errs := make([]finalize.Receipt, callers), make([]error, callers)
					var all sync.WaitGroup
					for i := range callers {
						all.Go(func() {
							receipts[i], errs[i] = w.prepare(t.Context(), key, finalize.Trigger(fmt.Sprint("trigger-", i)), stages)
						})
					}
					<-begun
					fault.fire(t, server)
					close(fired)
					all.Wait()
					won := 0
					for i := range callers {
						if errs[i] != nil {
							require.True(t, errors.Is(errs[i], lock.ErrLost) || onFailure == finalize.FailClosed && errors.Is(errs[i], finalize.ErrLockUnavailable), "%v", errs[i])
						}
						if receipts[i].Won {
							won++
						}
					}
					if fault.fix != nil {
						fault.fix(t, server)
					}
					away, lost := w.trace.locks()
					require.NotEmpty(t, append(away, lost...), "the fault fired")
					if won == 0 {
						// All of them had to give up; the next trigger doesn't. With FailClosed it needs Redis.
						if onFailure == finalize.FailClosed {
							redisDo(t, server, "config", "set", "maxmemory", "0")
							redisDo(t, server, "config", "set", "min-replicas-to-write", "0")
						}
						require.Eventually(t, func() bool {
							r, err := w.prepare(t.Context(), key, "next", preparing("b", func(context.Context) (string, error) { return "scored", nil }))
							return err == nil && r.Won
						}, long, 50*time.Millisecond)
						won++
					}
					require.Equal(t, 1, won)
					require.Equal(t, 1, w.count("SELECT count(*) FROM writes WHERE note = 'scored'"))
					w.requireFinal("b", "COMPLETE_STABLE", "batch.completed")
				}, on("pgx"), guardedBy("all"), locked(locks, func(c *finalize.Config) { c.Lock.OnFailure = onFailure }))
			})
		}
	}
}

func redisDo(t *testing.T, r *testserver.Redis, args ...any) {
	t.Helper()
	require.Eventually(t, func() bool { return dbtest.RedisOn(t, r.URL()).Do(t.Context(), args...).Err() == nil }, long, 50*time.Millisecond)
}

// F11: Redis is away from the start.
func TestRedisAwayFromTheStart(t *testing.T) {
	server := dbtest.StartRedis(t)
	server.Kill()
	l := redisLock(t, server.URL(), time.Second)
	for policy, onFailure := range map[string]finalize.LockFailure{"fail open": finalize.FailOpen, "fail closed": finalize.FailClosed} {
		t.Run(policy, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				for i := range 5 {
					id := fmt.Sprint("b", i)
					w.open(id)
					r, err := w.prepare(t.Context(), guard.Text(id), "sweep", preparing(id, func(context.Context) (string, error) { return "scored", nil }))
					if onFailure == finalize.FailClosed {
						require.ErrorIs(t, err, finalize.ErrLockUnavailable)
						w.requireOpen(id)
						continue
					}
					require.NoError(t, err)
					require.True(t, r.Won)
				}
				away, _ := w.trace.locks()
				require.Len(t, away, 5)
			}, on("pgx"), guardedBy("all"), locked(l, func(c *finalize.Config) { c.Lock.OnFailure = onFailure }))
		})
	}
}
