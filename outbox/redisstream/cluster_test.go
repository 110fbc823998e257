package redisstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
)

// cluster starts a Redis Cluster of two nodes and returns their addresses.
func cluster(t *testing.T) []string {
	t.Helper()
	var addrs []string
	var firstBus string
	for i, slots := range [][]any{{0, 8191}, {8192, 16383}} {
		bus := freePort(t)
		server := dbtest.StartRedis(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", bus)
		node := dbtest.RedisOn(t, server.URL())
		require.NoError(t, node.Do(t.Context(), append([]any{"cluster", "addslotsrange"}, slots...)...).Err())
		require.NoError(t, node.Do(t.Context(), "cluster", "set-config-epoch", i+1).Err())
		if i > 0 {
			host, port, err := net.SplitHostPort(addrs[0])
			require.NoError(t, err)
			require.NoError(t, node.Do(t.Context(), "cluster", "meet", host, port, firstBus).Err())
		} else {
			firstBus = bus
		}
		addrs = append(addrs, server.Addr())
	}
	for _, addr := range addrs {
		node := dbtest.RedisOn(t, "redis://"+addr)
		require.Eventually(t, func() bool {
			return strings.Contains(node.ClusterInfo(t.Context()).Val(), "cluster_state:ok")
		}, time.Minute, 20*time.Millisecond, "node %s", addr)
	}
	return addrs
}

// freePort finds a port for the nodes' talk among each other, below those of outgoing connections.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(30000 + rand.IntN(2700))
		if listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			require.NoError(t, listener.Close())
			return port
		}
	}
	require.Fail(t, "no port is free")
	return ""
}

// A batch whose streams are on both nodes, in the suite that every publisher passes.
func TestPublisherOnACluster(t *testing.T) {
	addrs := cluster(t)
	n := 0
	outboxtest.Publisher(t, func(t *testing.T) outboxtest.Subject {
		n++
		streams := make([]string, 8)
		for i := range streams {
			streams[i] = fmt.Sprintf("test-%d:stream-%d", n, i)
		}
		p, err := New(client(t, addrs...), &Config{StreamFor: func(e outbox.Event) string { return streams[e.ID[15]%8] }})
		require.NoError(t, err)
		return outboxtest.Subject{
			Publisher: p,
			Received:  func(ctx context.Context) ([]outbox.Event, error) { return entries(ctx, p.client, streams...) },
		}
	})
	for _, addr := range addrs {
		require.NotZero(t, dbtest.RedisOn(t, "redis://"+addr).DBSize(t.Context()).Val(), "no stream is on node %s", addr)
	}
}
