package pgfault

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// link is one client's connection with its server's. It is run by two goroutines, one a direction.
type link struct {
	proxy  *Proxy
	client net.Conn
	cuts   context.Context // ends when the link is cut
	end    context.CancelFunc

	mu       sync.Mutex
	server   net.Conn // nil until it is dialled
	dialogue dialogue
	fault    *Fault // what fired and is still going on, if anything
	from     int    // the first exchange whose answer it concerns
	deaf     int    // the last exchange that cancel requests don't reach
	key      string // what a cancel request for this connection says
}

func newLink(p *Proxy, client net.Conn) *link {
	l := &link{proxy: p, client: client}
	l.cuts, l.end = context.WithCancel(context.Background())
	return l
}

// cut closes both sides.
func (l *link) cut() {
	l.end()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.client.Close()
	if l.server != nil {
		l.server.Close()
	}
}

// ignore takes what the client sends, and answers nothing.
func (l *link) ignore() {
	defer l.cut()
	_, _ = io.Copy(io.Discard, l.client)
}

// run forwards in both directions until both sides have closed, or the link is cut.
func (l *link) run() {
	defer l.cut()
	if !l.dial() {
		return
	}
	client := newMessages(l.client)
	if !l.startup(client) {
		return
	}
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() {
		l.fromServer(newMessages(l.server))
		if f, _ := l.current(); f == nil || !f.Do.halfOpen() {
			closeWrite(l.client)
		}
	})
	l.fromClient(client)
	if f, _ := l.current(); f == nil || !f.Do.halfOpen() && f.Do != CutWhileWorking {
		closeWrite(l.server)
	}
}

// dial connects to the server, and reports whether there is something to forward to it.
func (l *link) dial() bool {
	var dialer net.Dialer
	network, address := l.proxy.server()
	server, err := dialer.DialContext(l.cuts, network, address)
	if err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.server = server
	if l.cuts.Err() != nil { // cut before there was a server's side to close
		server.Close()
		return false
	}
	return true
}

// closeWrite tells the other end that no more will come, and lets it go on sending.
func closeWrite(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// startup forwards what a client sends before it sends typed messages. It returns false where there won't be any.
func (l *link) startup(client *messages) bool {
	const cancelRequest, tlsRequest, gssRequest = 80877102, 80877103, 80877104
	for {
		code, raw, err := client.nextStartup()
		if err != nil {
			return false
		}
		if code == tlsRequest || code == gssRequest {
			if _, err := l.client.Write([]byte("N")); err != nil {
				return false
			}
			continue
		}
		if code == cancelRequest && l.proxy.deaf(string(raw[8:])) {
			return false
		}
		if _, err := l.server.Write(raw); err != nil {
			return false
		}
		if code == cancelRequest {
			_, _ = io.Copy(l.client, l.server) // the server answers by closing
			return false
		}
		l.dialogue.asked = 1
		return true
	}
}

// current returns the fault that is going on, if any, and the first exchange whose answer it concerns.
func (l *link) current() (f *Fault, from int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault, l.from
}

func (l *link) set(f *Fault, from int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault, l.from = f, from
}

// hears reports whether a cancel request with this key would be for this link, and whether it should be forwarded.
func (l *link) hears(key string) (mine, forward bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.key == key, l.dialogue.answered >= l.deaf
}

// wait waits for a fault's Release, and for its time where it has one, and reports whether the link is still there.
func (l *link) wait(f *Fault) bool {
	var after <-chan time.Time
	if f.Do == Delay {
		timer := time.NewTimer(f.For)
		defer timer.Stop()
		after = timer.C
	}
	select {
	case <-f.released.c:
	case <-after:
	case <-l.cuts.Done():
		return false
	}
	return true
}

// fromClient forwards what the client sends, until it has closed or a fault ends it.
func (l *link) fromClient(in *messages) {
	names := newStatements()
	out := bufio.NewWriter(l.server)
	defer out.Flush()
	for {
		if in.Buffered() == 0 && out.Flush() != nil {
			// The server is gone. What it said last is still on its way to the client, who mustn't be cut off from it.
			_, _ = io.Copy(io.Discard, in)
			return
		}
		kind, raw, err := in.next()
		if err != nil {
			return
		}
		sql, runs := names.observe(kind, raw[5:])
		l.mu.Lock()
		exchange := l.dialogue.sends(kind, &l.proxy.trips)
		if runs {
			l.dialogue.trip.add(sql)
		}
		fault, from := l.fault, l.from
		l.mu.Unlock()

		if runs && fault == nil {
			if fault = l.proxy.match(sql); fault != nil {
				_ = out.Flush()
				from = exchange
				if !l.strike(fault, exchange, in) {
					return
				}
			}
		}
		_, _ = out.Write(raw)
		if fault != nil && from == exchange && asks(kind) {
			switch fault.Do {
			case CutWhileWorking:
				_ = out.Flush()
				l.client.Close()
				return
			case HalfOpen:
				_ = out.Flush()
				l.ignoreClient(in)
				return
			}
		}
	}
}

// strike does what a fault does before its statement is forwarded, and reports whether it is to be forwarded.
func (l *link) strike(f *Fault, exchange int, in *messages) bool {
	if f.Do != Delay {
		l.mu.Lock()
		l.deaf = exchange
		l.mu.Unlock()
	}
	f.fired.send() // not sooner: a test may have its client give up at once, and that request to cancel is for this exchange
	switch f.Do {
	case CutBefore:
		l.client.Close()
		return false
	case Hold, Delay:
		return l.wait(f)
	case HalfOpenBefore:
		l.set(f, exchange)
		l.ignoreClient(in)
		return false
	default: // what these do comes later
		l.set(f, exchange)
		return true
	}
}

// ignoreClient takes what the client sends until it goes.
func (l *link) ignoreClient(in *messages) {
	for {
		if kind, _, err := in.next(); err != nil || kind == terminate {
			l.client.Close()
			return
		}
	}
}

// fromServer forwards what the server sends, until it has closed or a fault ends it.
func (l *link) fromServer(in *messages) {
	out := bufio.NewWriter(l.client) // it keeps its first error, and so a client that has gone needs no care
	defer out.Flush()
	var held []byte
	for {
		if in.Buffered() == 0 {
			_ = out.Flush()
		}
		kind, raw, err := in.next()
		if err != nil {
			return
		}
		l.mu.Lock()
		if kind == backendKeyData {
			l.key = string(raw[5:])
		}
		// This comes before the message is forwarded, as the client can send the next one at once then.
		exchange := l.dialogue.receives(kind)
		fault, from := l.fault, l.from
		l.mu.Unlock()

		if fault == nil || exchange < from {
			_, _ = out.Write(raw)
			continue
		}
		complete := kind == readyForQuery && exchange == from
		if fault.Do == HoldReply {
			held = append(held, raw...)
		}
		if !complete {
			continue
		}
		_ = out.Flush() // the answers to earlier exchanges
		switch fault.Do {
		case HoldReply:
			fault.answered.send()
			if !l.wait(fault) {
				return
			}
			_, _ = out.Write(held)
			held = nil
			l.set(nil, 0)
		case CutAfterReply, CutWhileWorking:
			l.cut()
			fault.answered.send()
			return
		case HalfOpen:
			fault.answered.send()
		}
	}
}
