package pgfault

import (
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// Proxy forwards connections to a PostgreSQL server. It is safe for concurrent use.
type Proxy struct {
	listener net.Listener
	url      string
	trips    atomic.Pointer[trips] // nil while nobody counts

	group sync.WaitGroup // the goroutine that accepts, and one a link

	mu        sync.Mutex
	network   string // of the server
	address   string
	faults    []*Fault
	links     map[*link]bool
	refuse    bool
	blackHole bool
	closed    bool
}

// New starts a proxy in front of the server of a database's URL. It ends with the test, which fails if a fault was armed and
// didn't fire.
func New(t testing.TB, database string) *Proxy {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil || u.Scheme == "" {
		t.Fatal("pgfault: the database isn't given by a URL") // which may hold a password, and err holds the URL
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("pgfault: %v", err)
	}
	p := &Proxy{listener: listener, links: map[*link]bool{}}
	if err := p.Lead(database); err != nil {
		listener.Close()
		t.Fatalf("pgfault: the database's URL: %v", err)
	}
	u.Host = listener.Addr().String()
	// The other parameters stay as they are written: pgx decodes them in its own way.
	u.RawQuery = strings.Join(slices.DeleteFunc(strings.Split(u.RawQuery, "&"), func(parameter string) bool {
		return strings.HasPrefix(parameter, "host=") || strings.HasPrefix(parameter, "port=")
	}), "&")
	p.url = u.String()
	p.group.Go(p.accept)
	t.Cleanup(func() {
		p.close()
		p.requireFired(t)
	})
	return p
}

// Lead has new connections go to the server of a database's URL, as a name does after a fail-over.
func (p *Proxy) Lead(database string) error {
	config, err := pgconn.ParseConfig(database)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.network, p.address = pgconn.NetworkAddress(config.Host, config.Port)
	return nil
}

// server is where new connections go.
func (p *Proxy) server() (network, address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.network, p.address
}

// URL is the database's URL through the proxy.
func (p *Proxy) URL() string { return p.url }

// Arm makes a fault happen, and returns it. Where several want the same statement, the first one armed gets it.
func (p *Proxy) Arm(f *Fault) *Fault {
	for _, s := range []*signal{&f.fired, &f.answered, &f.released} {
		s.c = make(chan struct{})
	}
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

// BlackHole makes the proxy take new connections and never answer on them, as a server behind a broken network does, or
// forward new ones again. Those that were taken meanwhile stay unanswered.
func (p *Proxy) BlackHole(blackHole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blackHole = blackHole
}

// CutAll cuts every connection, on both sides.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	links := slices.Collect(maps.Keys(p.links))
	p.mu.Unlock()
	for _, l := range links {
		l.cut()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.take(client)
	}
}

func (p *Proxy) take(client net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse || p.closed {
		client.Close()
		return
	}
	l := newLink(p, client)
	run := l.run
	if p.blackHole {
		run = l.ignore
	}
	p.links[l] = true
	p.group.Go(func() {
		run()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.links, l)
	})
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

// deaf reports whether a cancel request, which says key, is for an exchange that the client has lost hold of by a fault.
func (p *Proxy) deaf(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		if mine, forward := l.hears(key); mine {
			return !forward
		}
	}
	return false
}

// close ends the proxy and waits until nothing is left of it.
func (p *Proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.CutAll()
	p.group.Wait()
}

// requireFired fails the test if an armed fault didn't fire: the test would have shown nothing.
func (p *Proxy) requireFired(t testing.TB) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if !f.HasFired() {
			t.Errorf("pgfault: %s was armed and did not fire", f)
		}
	}
}
