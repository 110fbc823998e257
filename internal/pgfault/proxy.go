package pgfault

import (
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Proxy forwards connections to a PostgreSQL server. It is safe for concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	url      string

	mu     sync.Mutex
	faults []*Fault
	links  map[*link]bool
	refuse bool
	trips  *trips
	group  sync.WaitGroup
}

// New starts a proxy in front of the server of a database's URL. It ends with the test.
func New(t testing.TB, database string) *Proxy {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, target: u.Host, links: map[*link]bool{}}
	u.Host = listener.Addr().String()
	p.url = u.String()
	p.group.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// URL is the database's URL through the proxy.
func (p *Proxy) URL() string { return p.url }

// Arm makes a fault happen.
func (p *Proxy) Arm(f *Fault) *Fault {
	f.fired, f.answered, f.released = make(chan struct{}), make(chan struct{}), make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, f)
	return f
}

// Refuse makes the proxy close new connections at once, as a server that is away does, or take them again.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// CutAll cuts every connection.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.cut()
	}
}

// Trips runs f and returns the round trips that it took, on all connections: each is described by the statements in it.
// Starting a connection doesn't count.
func (p *Proxy) Trips(f func()) []string {
	t := &trips{}
	p.mu.Lock()
	p.trips = t
	p.mu.Unlock()
	f()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trips = nil
	return t.list()
}

func (p *Proxy) counter() *trips {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trips
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse := p.refuse
		p.mu.Unlock()
		if refuse {
			client.Close()
			continue
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		l := newLink(p, client, server)
		p.mu.Lock()
		p.links[l] = true
		p.mu.Unlock()
		p.group.Go(func() {
			l.run()
			p.mu.Lock()
			delete(p.links, l)
			p.mu.Unlock()
		})
	}
}

// match returns the armed fault that fires at a statement, or nil.
func (p *Proxy) match(sql string) *Fault {
	p.mu.Lock()
	faults := p.faults
	p.mu.Unlock()
	for _, f := range faults {
		if f.hit(sql) {
			return f
		}
	}
	return nil
}

func (p *Proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	for _, f := range p.faults {
		f.Release()
	}
	p.mu.Unlock()
	p.CutAll()
	p.group.Wait()
}

// trips collects round trips.
type trips struct {
	mu  sync.Mutex
	all []*trip
}

type trip struct{ statements []string }

func (t *trips) begin() *trip {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := &trip{}
	t.all = append(t.all, one)
	return one
}

func (t *trips) add(one *trip, sql string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one.statements = append(one.statements, sql)
}

func (t *trips) list() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]string, len(t.all))
	for i, one := range t.all {
		list[i] = fmt.Sprintf("%q", one.statements)
	}
	return list
}
