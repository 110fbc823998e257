package lockredis_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/testserver"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/lock/lockredis"
	"github.com/endstate-go/endstate/lock/locktest"
)

// startCluster starts a Redis Cluster of two nodes, which share the slots.
func startCluster(t *testing.T) (addrs []string) {
	t.Helper()
	const slots = 16384
	var nodes []*redis.Client
	buses := []int{freePort(t), freePort(t)}
	for i, bus := range buses {
		server := dbtest.StartRedis(t, "--cluster-enabled", "yes", "--cluster-port", fmt.Sprint(bus))
		node := client(t, server.Addr())
		require.NoError(t, node.ClusterAddSlotsRange(t.Context(), i*slots/2, (i+1)*slots/2-1).Err())
		require.NoError(t, node.Do(t.Context(), "cluster", "set-config-epoch", i+1).Err())
		addrs, nodes = append(addrs, server.Addr()), append(nodes, node)
	}
	require.NoError(t, nodes[1].Do(t.Context(), "cluster", "meet", "127.0.0.1", port(addrs[0]), buses[0]).Err())
	for _, node := range nodes {
		eventually(t, func() bool {
			info := node.ClusterInfo(t.Context()).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:2")
		}, "the cluster forms")
	}
	return addrs
}

func TestRedisCluster(t *testing.T) {
	t.Parallel()
	addrs := startCluster(t)
	connect := func(t testing.TB) *redis.ClusterClient {
		c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		return c
	}
	locktest.Run(t, locktest.Harness{
		New: func(t testing.TB) lock.Locker { return newLock(t, connect(t), quick()) },
		Lose: func(t testing.TB, key string) {
			require.EqualValues(t, 1, connect(t).Del(t.Context(), "endstate:lock:"+key).Val())
		},
	})

	// Keys live on both nodes, and waiters are woken though they may listen at another node than the one that has the key.
	for i := range 20 {
		key := fmt.Sprint("key-", i)
		cfg := &lockredis.Config{Timeout: 2 * time.Second, MinPoll: time.Minute, MaxPoll: time.Minute, Logger: discard()}
		holder, waiter := newLock(t, connect(t), cfg), newLock(t, connect(t), cfg)
		done := make(chan error, 1)
		require.NoError(t, holder.Do(t.Context(), key, func(ctx context.Context) error {
			go func() { done <- waiter.Do(t.Context(), key, func(context.Context) error { return nil }) }()
			eventually(t, func() bool {
				n := int64(0)
				for _, addr := range addrs {
					n += client(t, addr).PubSubNumSub(ctx, "endstate:lock:"+key).Val()["endstate:lock:"+key]
				}
				return n == 1
			}, "the waiter listens")
			return nil
		}))
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(patience):
			t.Fatal("the waiter was not woken")
		}
	}
	for _, addr := range addrs {
		require.Contains(t, client(t, addr).Info(t.Context(), "commandstats").Val(), "cmdstat_evalsha", "both nodes had locks")
		empty(t, client(t, addr))
	}
}

// F11: a fail-over to a replica that has heard of the lock keeps it.
func TestRedisSentinelFailover(t *testing.T) {
	t.Parallel()
	primary := dbtest.StartRedis(t)
	replica := dbtest.StartRedis(t, "--replicaof", "127.0.0.1 "+port(primary.Addr()))
	eventually(t, func() bool {
		return strings.Contains(client(t, replica.Addr()).Info(t.Context(), "replication").Val(), "master_link_status:up")
	}, "the replica is connected")
	sentinel := startSentinel(t, primary.Addr())
	rdb := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "main", SentinelAddrs: []string{sentinel}})
	t.Cleanup(func() { require.NoError(t, rdb.Close()) })
	l := newLock(t, rdb, &lockredis.Config{TTL: 10 * time.Minute, Timeout: 2 * time.Second, Logger: discard()})
	n := 0
	require.NoError(t, l.Do(t.Context(), "k", ran(&n)))
	require.Equal(t, 1, n)

	err := l.Do(t.Context(), "k", func(ctx context.Context) error {
		require.NoError(t, rdb.Wait(ctx, 1, patience).Err())
		require.EqualValues(t, 1, client(t, replica.Addr()).DBSize(ctx).Val(), "the replica has heard of it")
		primary.Kill()
		eventually(t, func() bool {
			return strings.Contains(client(t, replica.Addr()).Info(t.Context(), "replication").Val(), "role:master")
		}, "the failover")
		require.ErrorIs(t, newLock(t, client(t, replica.Addr()), quick()).Try(ctx, "k", never(t)), lock.ErrHeld)
		// The client learns of the new primary by itself.
		eventually(t, func() bool { return rdb.Ping(ctx).Err() == nil }, "the client connects to the new primary")
		return ctx.Err()
	})
	require.NoError(t, err, "it was held all along, and given back to the new primary")
	empty(t, client(t, replica.Addr()))
}

// startSentinel starts a sentinel that alone decides on the failover of a primary.
func startSentinel(t *testing.T, primary string) (addr string) {
	t.Helper()
	bin, err := testserver.RedisBin()
	require.NoError(t, err)
	dir, p := t.TempDir(), freePort(t)
	conf := filepath.Join(dir, "sentinel.conf")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, `port %d
bind 127.0.0.1
dir %s
sentinel monitor main 127.0.0.1 %s 1
sentinel down-after-milliseconds main 300
sentinel failover-timeout main 5000
`, p, dir, port(primary)), 0o600))
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, bin, conf, "--sentinel")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { stop(); _ = cmd.Wait() })
	addr = fmt.Sprint("127.0.0.1:", p)
	eventually(t, func() bool {
		s := redis.NewSentinelClient(&redis.Options{Addr: addr})
		defer s.Close()
		replicas, err := s.Replicas(t.Context(), "main").Result()
		return err == nil && len(replicas) == 1 && replicas[0]["flags"] == "slave"
	}, "the sentinel knows the replica")
	return addr
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
