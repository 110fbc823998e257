package natsjs

import (
	"context"
	"crypto/tls"
	"database/sql"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/endstate-go/endstate/outbox"
)

func TestMain(m *testing.M) {
	if opts := os.Getenv(nodeOptions); opts != "" {
		runNode(opts)
		return
	}
	goleak.VerifyTestMain(m)
}

const maxPayload = 300_000

// broker is a server with a stream "EVENTS" on disk, and a client behind a wire that can be held.
type broker struct {
	t      *testing.T
	opts   *server.Options
	server *server.Server
	wire   *wire
	conn   *nats.Conn
	js     jetstream.JetStream
	secure *tls.Config // the client's, for a server that speaks TLS
}

func startBroker(t *testing.T, stream jetstream.StreamConfig, configure ...func(*broker)) *broker {
	t.Helper()
	b := &broker{t: t, opts: &server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), MaxPayload: maxPayload, NoLog: true, NoSigs: true,
		SyncAlways: true,
	}}
	for _, f := range configure {
		f(b)
	}
	b.start()
	t.Cleanup(func() { stop(b.server) })
	b.opts.Port = b.server.Addr().(*net.TCPAddr).Port
	b.wire = newWire(t, b.server.Addr().String())
	b.conn = connect(t, b.secure, "nats://"+b.wire.listener.Addr().String())
	var err error
	b.js, err = jetstream.New(b.conn)
	require.NoError(t, err)
	stream.Name = "EVENTS"
	if stream.Subjects == nil {
		stream.Subjects = []string{"events.>"}
	}
	_, err = b.js.CreateStream(t.Context(), stream)
	require.NoError(t, err)
	return b
}

func (b *broker) start() {
	b.t.Helper()
	var err error
	b.server, err = server.NewServer(b.opts)
	require.NoError(b.t, err)
	b.server.Start()
	require.True(b.t, b.server.ReadyForConnections(30*time.Second))
}

// restart starts the server anew, and waits until it answers on the client's connection: a request sent while that was gone is lost.
func (b *broker) restart() {
	b.t.Helper()
	stop(b.server)
	b.start()
	require.Eventually(b.t, func() bool {
		ctx, cancel := context.WithTimeout(b.t.Context(), time.Second)
		defer cancel()
		_, err := b.js.Stream(ctx, "EVENTS")
		return err == nil
	}, 2*time.Minute, 10*time.Millisecond)
}

func stop(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// connect connects as a relay would, but tries again faster.
func connect(t *testing.T, secure *tls.Config, urls ...string) *nats.Conn {
	t.Helper()
	opts := nats.GetDefaultOptions()
	opts.Secure, opts.TLSConfig = secure != nil, secure
	opts.Servers, opts.MaxReconnect, opts.ReconnectWait, opts.AllowReconnect = urls, -1, 20*time.Millisecond, true
	closed := make(chan struct{})
	opts.ClosedCB = func(*nats.Conn) { close(closed) }
	conn, err := opts.Connect()
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(); <-closed })
	return conn
}

// newSQLite opens a new SQLite database. This module has no part of the root's internal packages: their versions may differ.
func newSQLite(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "test.db")+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// stored returns what a stream holds.
func stored(ctx context.Context, js jetstream.JetStream) ([]outbox.Event, error) {
	stream, err := js.Stream(ctx, "EVENTS")
	if err != nil {
		return nil, err
	}
	state := stream.CachedInfo().State
	var events []outbox.Event
	for seq := max(state.FirstSeq, 1); seq <= state.LastSeq; seq++ {
		m, err := stream.GetMsg(ctx, seq)
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", seq, err)
		}
		e, err := Decode(m.Header, m.Data)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

// wire forwards connections to a server, and can hold what goes over them, in both directions.
type wire struct {
	listener net.Listener
	mu       sync.Mutex
	held     chan struct{} // closed when nothing is held
	running  sync.WaitGroup
	conns    []net.Conn
}

func newWire(t *testing.T, server string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &wire{listener: listener, held: make(chan struct{})}
	close(w.held)
	w.running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, client, upstream)
			w.mu.Unlock()
			w.running.Go(func() { w.forward(upstream, client) })
			w.running.Go(func() { w.forward(client, upstream) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		w.mu.Lock()
		for _, c := range w.conns {
			_ = c.Close()
		}
		w.mu.Unlock()
		w.running.Wait()
	})
	return w
}

func (w *wire) forward(to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		w.mu.Lock()
		held := w.held
		w.mu.Unlock()
		<-held
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (w *wire) hold() (release func()) {
	held := make(chan struct{})
	w.mu.Lock()
	w.held = held
	w.mu.Unlock()
	return func() { close(held) }
}
