package natsjs

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// nodeOptions has this test program run a server, in a process that can be killed, instead of the tests.
const nodeOptions = "NATSJS_TEST_NODE"

// nodeConfig is what a node needs to know.
type nodeConfig struct {
	Name, Dir         string
	Port, ClusterPort int
	Routes            []string
}

// runNode serves until standard input ends: the test that started it is over, or dead.
func runNode(config string) {
	var c nodeConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		panic(err)
	}
	s, err := server.NewServer(&server.Options{
		ServerName: c.Name, Host: "127.0.0.1", Port: c.Port, JetStream: true, StoreDir: c.Dir, NoLog: true, NoSigs: true,
		Routes:  server.RoutesFromStr(strings.Join(c.Routes, ",")),
		Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: c.ClusterPort},
	})
	if err != nil {
		panic(err)
	}
	s.Start()
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// node is a server in a process of its own.
type node struct {
	name, url string
	kill      func() // SIGKILL, and waits for the end
}

// startCluster starts three nodes that know each other.
func startCluster(t *testing.T) []node {
	t.Helper()
	const size = 3
	ports := claimPorts(t, 2*size)
	var routes []string
	for _, port := range ports[size:] {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", port))
	}
	nodes := make([]node, size)
	for i := range nodes {
		name := fmt.Sprint("node-", i)
		config, err := json.Marshal(nodeConfig{name, filepath.Join(t.TempDir(), name), ports[i], ports[size+i], routes})
		require.NoError(t, err)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), nodeOptions+"="+string(config))
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		kill := sync.OnceFunc(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			_ = stdin.Close()
		})
		t.Cleanup(kill)
		nodes[i] = node{name, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]), kill}
	}
	for _, port := range ports[:size] {
		require.Eventually(t, func() bool {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		}, time.Minute, 20*time.Millisecond)
	}
	return nodes
}

// claimPorts finds free TCP ports and keeps them from other tests' nodes, of this and other processes, by holding the UDP ports
// of the same numbers. They are below those that systems give to outgoing connections, one of which could take a port while its
// node is down.
func claimPorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range 1000 {
		address := fmt.Sprint("127.0.0.1:", 20_000+rand.IntN(10_000))
		claim, err := net.ListenPacket("udp", address)
		if err != nil {
			continue
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			require.NoError(t, claim.Close())
			continue
		}
		require.NoError(t, listener.Close())
		t.Cleanup(func() { _ = claim.Close() })
		if ports = append(ports, listener.Addr().(*net.TCPAddr).Port); len(ports) == n {
			return ports
		}
	}
	require.FailNow(t, "no ports are free")
	return nil
}

// createStream creates a stream as soon as the cluster has a leader.
func createStream(t *testing.T, js jetstream.JetStream, config jetstream.StreamConfig) jetstream.Stream {
	t.Helper()
	return answer(t, func() (jetstream.Stream, error) { return js.CreateOrUpdateStream(t.Context(), config) })
}

// answer asks a cluster until it answers: it refuses while it elects a leader, which two nodes on a busy machine may do at any time.
func answer[T any](t *testing.T, ask func() (T, error)) (got T) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		answered, err := ask()
		require.NoError(c, err)
		got = answered
	}, 3*time.Minute, 50*time.Millisecond)
	return got
}
