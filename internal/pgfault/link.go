package pgfault

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgproto3"
)

// link is one client's connection with its server's.
type link struct {
	proxy          *Proxy
	client, server net.Conn

	statements map[string]string // prepared statements' names to their SQL
	portals    map[string]string // portals' names to their SQL

	mu      sync.Mutex
	pending int  // answers (ReadyForQuery) that the server owes
	inTrip  bool // the client has sent something since the last answer
	swallow *Fault
	mute    atomic.Bool // hand nothing to the client
	orphan  atomic.Bool // the client is cut off, the server is to finish
}

func newLink(p *Proxy, client, server net.Conn) *link {
	return &link{proxy: p, client: client, server: server, statements: map[string]string{}, portals: map[string]string{}}
}

func (l *link) cut() {
	l.client.Close()
	l.server.Close()
}

// run forwards in both directions until one side has closed.
func (l *link) run() {
	defer l.cut()
	reader := bufio.NewReader(l.client)
	if !l.startup(reader) {
		return
	}
	var group sync.WaitGroup
	group.Go(l.fromServer)
	l.fromClient(reader)
	if l.orphan.Load() {
		group.Wait() // until the server has answered
	}
	l.cut()
	group.Wait()
}

// startup forwards what comes before the typed messages. It returns false for a cancel request, which ends with it.
func (l *link) startup(reader *bufio.Reader) bool {
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(reader, head); err != nil {
			return false
		}
		code := binary.BigEndian.Uint32(head[4:])
		const cancelRequest, sslRequest, gssRequest = 80877102, 80877103, 80877104
		if code == sslRequest || code == gssRequest {
			if _, err := l.client.Write([]byte("N")); err != nil {
				return false
			}
			continue
		}
		rest := make([]byte, binary.BigEndian.Uint32(head)-8)
		if _, err := io.ReadFull(reader, rest); err != nil {
			return false
		}
		if _, err := l.server.Write(append(head, rest...)); err != nil {
			return false
		}
		if code == cancelRequest {
			_, _ = io.Copy(l.client, l.server) // the server answers by closing
			return false
		}
		l.pending = 1 // the ReadyForQuery that ends the startup
		return true
	}
}

// readMessage reads one typed message: its type and the whole of it.
func readMessage(reader io.Reader) (kind byte, raw []byte, err error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(reader, head); err != nil {
		return 0, nil, err
	}
	raw = make([]byte, 1+binary.BigEndian.Uint32(head[1:]))
	copy(raw, head)
	_, err = io.ReadFull(reader, raw[5:])
	return head[0], raw, err
}

func (l *link) fromClient(reader *bufio.Reader) {
	var current *trip
	var counter *trips
	cutAfterSync := false
	for {
		kind, raw, err := readMessage(reader)
		if err != nil {
			return
		}
		sql, isStatement := l.statement(kind, raw[5:])
		l.mu.Lock()
		if !l.inTrip && l.pending == 0 && kind != 'X' {
			l.inTrip = true
			if counter = l.proxy.counter(); counter != nil {
				current = counter.begin()
			}
		}
		l.mu.Unlock()
		if isStatement {
			if counter != nil && current != nil {
				counter.add(current, sql)
			}
			if f := l.proxy.match(sql); f != nil {
				switch f.Do {
				case CutBefore:
					return
				case CutAfterReply:
					l.mu.Lock()
					l.swallow = f
					l.mu.Unlock()
					l.mute.Store(true)
				case CutWhileWorking:
					l.mu.Lock()
					l.swallow = f
					l.mu.Unlock()
					l.mute.Store(true)
					l.orphan.Store(true)
					cutAfterSync = true
				case Hold:
					<-f.released
				case HalfOpen:
					l.mute.Store(true)
				}
			}
		}
		if kind == 'S' || kind == 'Q' {
			l.mu.Lock()
			l.pending++
			l.mu.Unlock()
		}
		if _, err := l.server.Write(raw); err != nil {
			return
		}
		if cutAfterSync && (kind == 'S' || kind == 'Q') {
			l.client.Close()
			return
		}
	}
}

// statement returns the SQL that a message runs, if it runs any, and remembers prepared ones.
func (l *link) statement(kind byte, body []byte) (sql string, ok bool) {
	switch kind {
	case 'Q':
		var m pgproto3.Query
		if m.Decode(body) == nil {
			return m.String, true
		}
	case 'P':
		var m pgproto3.Parse
		if m.Decode(body) == nil {
			l.statements[m.Name] = m.Query
		}
	case 'B':
		var m pgproto3.Bind
		if m.Decode(body) == nil {
			l.portals[m.DestinationPortal] = l.statements[m.PreparedStatement]
		}
	case 'E':
		var m pgproto3.Execute
		if m.Decode(body) == nil {
			return l.portals[m.Portal], true
		}
	}
	return "", false
}

func (l *link) fromServer() {
	defer l.client.Close()
	reader := bufio.NewReader(l.server)
	for {
		kind, raw, err := readMessage(reader)
		if err != nil {
			return
		}
		if !l.mute.Load() {
			if _, err := l.client.Write(raw); err != nil && !l.orphan.Load() {
				return
			}
		}
		if kind != 'Z' {
			continue
		}
		l.mu.Lock()
		l.pending--
		done := l.pending == 0
		if done {
			l.inTrip = false
		}
		swallow := l.swallow
		l.mu.Unlock()
		if done && swallow != nil {
			close(swallow.answered)
			l.cut()
			return
		}
	}
}
