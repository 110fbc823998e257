package natsjs

import (
	"encoding/json"
	"fmt"
	"io"
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
	ports := freePorts(t, 2*size)
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

// freePorts finds ports below those of outgoing connections.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for port := 10_000 + os.Getpid()%8000; len(ports) < n; port++ {
		require.Less(t, port, 20_000, "no ports are free")
		if listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			require.NoError(t, listener.Close())
			ports = append(ports, port)
		}
	}
	return ports
}

// createStream creates a stream as soon as the cluster has a leader.
func createStream(t *testing.T, js jetstream.JetStream, config jetstream.StreamConfig) (stream jetstream.Stream) {
	t.Helper()
	require.Eventually(t, func() bool {
		var err error
		stream, err = js.CreateOrUpdateStream(t.Context(), config)
		return err == nil
	}, time.Minute, 50*time.Millisecond)
	return stream
}
