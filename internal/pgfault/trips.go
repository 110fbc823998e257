package pgfault

import (
	"fmt"
	"sync"
)

// Trips runs f and returns the round trips that it took, on all connections, each described by the statements in it.
//
// A round trip begins when a client sends something after the server has answered all that was sent before, and so
// everything that is sent without waiting is one. After a Flush, the server's first message counts as the answer. Starting
// and ending a connection doesn't count.
func (p *Proxy) Trips(f func()) []string {
	t := &trips{}
	p.trips.Store(t)
	defer p.trips.Store(nil)
	f()
	return t.list()
}

// trips collects round trips.
type trips struct {
	mu  sync.Mutex
	all []*trip
}

// trip is one round trip. A nil one isn't counted.
type trip struct {
	trips *trips
	sql   []string
}

// begin counts a round trip, unless t is nil.
func (t *trips) begin() *trip {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	one := &trip{trips: t}
	t.all = append(t.all, one)
	return one
}

func (t *trip) add(sql string) {
	if t == nil {
		return
	}
	t.trips.mu.Lock()
	defer t.trips.mu.Unlock()
	t.sql = append(t.sql, sql)
}

func (t *trips) list() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]string, len(t.all))
	for i, one := range t.all {
		list[i] = fmt.Sprintf("%q", one.sql)
	}
	return list
}
