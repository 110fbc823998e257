package dbtest

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Proxy stands between a client and a server. It can swallow what either sends, and counts that; connections stay.
type Proxy struct {
	NoRequests, NoReplies     atomic.Bool
	LostRequests, LostReplies atomic.Int64 // bytes

	listener net.Listener
	target   string

	mu    sync.Mutex
	conns []net.Conn
	all   sync.WaitGroup
}

// NewProxy returns a proxy that ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &Proxy{listener: listener, target: target}
	p.all.Go(p.accept)
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		p.Cut()
		p.all.Wait()
	})
	return p
}

// Addr is where clients connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		p.all.Go(func() { pump(server, client, &p.NoRequests, &p.LostRequests) })
		p.all.Go(func() { pump(client, server, &p.NoReplies, &p.LostReplies) })
	}
}

// pump hands bytes on, or swallows them.
func pump(to, from net.Conn, swallow *atomic.Bool, swallowed *atomic.Int64) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if swallow.Load() {
			swallowed.Add(int64(n))
		} else if _, err := to.Write(buf[:n]); err != nil {
			return
		}
		if err != nil {
			return
		}
	}
}

// Cut closes every connection.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}
