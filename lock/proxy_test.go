package lock_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxy stands between a client and Redis. It can swallow what either sends, and counts that; connections stay.
type proxy struct {
	listener                net.Listener
	target                  string
	noRequests, noReplies   atomic.Bool
	lostRequests, lostReply atomic.Int64

	mu    sync.Mutex
	conns []net.Conn
	all   sync.WaitGroup
}

// newProxy returns a proxy that ends with the test.
func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: listener, target: target}
	p.all.Go(p.accept)
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		p.cut()
		p.all.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
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
		p.all.Go(func() { pump(server, client, &p.noRequests, &p.lostRequests) })
		p.all.Go(func() { pump(client, server, &p.noReplies, &p.lostReply) })
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

// cut closes every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}
