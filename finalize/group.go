package finalize

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/endstate-go/endstate/internal/sleep"
)

// GroupConfig says how concurrent Settle calls of one process for different keys are gathered into one statement, which costs
// the database little more than one call does. The zero value gathers what arrives while many others are under way, and lets
// nobody wait who needn't: one of a few calls goes at once, by itself.
//
// Every call gets its own receipt or its own error, and one that is wrong or has to wait fails or waits alone: the group goes
// without it. Groups are for New, with the guards of this library whose states are Names or Prefixes; other finalizers settle
// each call by itself.
type GroupConfig struct {
	// Off turns grouping off.
	Off bool
	// From is how many calls may be under way at a time before others are gathered. So few cost no less together: the
	// database flushes their commits together anyway. Default 16.
	From int
	// Max is how many calls a group has at most. Default 256.
	Max int
	// Writers is how many groups are under way at a time; meanwhile the next ones gather. Default 2.
	Writers int
	// Wait is how long a group's first call waits for others to go with it. If it is set, every call is gathered,
	// whatever From says. Default 0.
	Wait time.Duration
}

// groupPatience is how long a statement keeps others waiting: when it takes longer, perhaps because its aggregate is held by
// another transaction, the next group goes.
const groupPatience = 20 * time.Millisecond

// group gathers one tenant's calls for keys of one shape. The goroutine of one of the calls, the leader, does the work for all
// of them, so there is none to look after.
type group struct {
	calls  int // under way, alone or in groups, or waiting; the groups' mutex guards it
	mu     sync.Mutex
	flying int // leaders
	queue  []*member
}

// member is a call that waits for its turn to lead, or for what a leader has learnt of it. It is woken once.
type member struct {
	a      *attempt
	wake   chan bool // true: it leads; false: its flight is over
	flight *flight   // nil: it is in the queue; the group's mutex guards it
	got    settled
}

// flight is one statement for several members.
type flight struct {
	members []*member
	cancel  context.CancelFunc
	once    sync.Once
	grace   *time.Timer
	err     error
}

// place is a leader's among those that are under way, of which there are so many as there may be writers.
type place struct {
	g     *group
	given atomic.Bool
}

// pass gives the place to the first who waits.
func (p *place) pass() {
	if p.given.Swap(true) {
		return
	}
	g := p.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == 0 {
		g.flying--
		return
	}
	next := g.queue[0]
	g.queue = g.queue[1:]
	next.wake <- true
}

// join leads a group, or waits for one to take m along. Afterwards m has got what that learnt of it, unless it must go alone.
func (d *pgxDB) join(ctx context.Context, g *group, m *member) error {
	g.mu.Lock()
	if g.flying < d.cfg.Group.Writers && len(g.queue) == 0 {
		g.flying++
		g.mu.Unlock()
		return d.lead(ctx, g, m)
	}
	m.wake = make(chan bool, 1)
	g.queue = append(g.queue, m)
	g.mu.Unlock()

	var leads bool
	select {
	case leads = <-m.wake:
	case <-ctx.Done():
		f, left := g.leave(m)
		if left {
			return fmt.Errorf("waiting for other calls of this process: %w", context.Cause(ctx))
		}
		if f != nil {
			f.giveGrace()
		}
		leads = <-m.wake
	}
	if leads {
		return d.lead(ctx, g, m)
	}
	return m.flight.err
}

// leave takes m out of the queue, if it is still there; else it returns the flight that has taken m along, if one has.
func (g *group) leave(m *member) (f *flight, left bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.queue, m); i >= 0 {
		g.queue = slices.Delete(g.queue, i, i+1)
		return nil, true
	}
	return m.flight, false
}

// lead settles m and those who wait. Alone it must settle itself.
func (d *pgxDB) lead(ctx context.Context, g *group, m *member) error {
	p := &place{g: g}
	defer p.pass()
	if wait := d.cfg.Group.Wait; wait > 0 {
		_ = sleep.For(ctx, wait)
	}
	// Those whose flight has just ended come back with their next calls.
	runtime.Gosched()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	patience := time.AfterFunc(groupPatience, p.pass)
	defer patience.Stop()
	// The leader's context must not end the others' calls: the statement is told to stop only some time after anybody's
	// has ended, which a statement that doesn't wait hardly ever sees. Its values stay, by which a pool knows the tenant.
	flying, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	f := &flight{cancel: cancel}
	f.members = append(g.take(f, d.cfg.Group.Max-1, bulkBytes-m.a.size), m)
	if len(f.members) == 1 {
		var err error
		m.got.rec, m.got.won, err = d.settleOnce(ctx, d.plan(m.a), m.a)
		m.got.done = true
		return err
	}
	defer f.land()
	stop := context.AfterFunc(ctx, f.giveGrace)
	defer stop()
	f.fly(flying, d)
	return f.err
}

// take takes up to limit from the queue, with no more payload than bytes.
func (g *group) take(f *flight, limit, bytes int) []*member {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for n < min(limit, len(g.queue)) && g.queue[n].a.size <= bytes {
		bytes -= g.queue[n].a.size
		g.queue[n].flight = f
		n++
	}
	taken := g.queue[:n:n]
	g.queue = g.queue[n:]
	return taken
}

// fly runs the statement. An error that concerns only some, or that each can be told better alone, is no error of the flight:
// then nothing was settled, and everyone goes alone.
func (f *flight) fly(ctx context.Context, d *pgxDB) {
	f.err = errUnanswered // should this goroutine end in there, by a panic of a tracer's for instance: then each may have been settled
	// All such statements lock in one order.
	slices.SortFunc(f.members, func(a, b *member) int { return strings.Compare(a.a.Key, b.a.Key) })
	attempts := make([]*attempt, len(f.members))
	for i, m := range f.members {
		attempts[i] = m.a
	}
	results, err := d.settleBulk(ctx, attempts)
	f.err = nil
	switch {
	case err == nil:
		for i, m := range f.members {
			m.got = results[i]
		}
	case errors.Is(err, errUnanswered), errors.Is(err, ErrBusy), errors.Is(err, errNoConnection):
		f.err = err
	}
}

// giveGrace stops the statement, if it is still running some time after a member's context has ended.
func (f *flight) giveGrace() {
	f.once.Do(func() { f.grace = time.AfterFunc(interruptGrace, f.cancel) })
}

// land wakes the members.
func (f *flight) land() {
	f.once.Do(func() {})
	if f.grace != nil {
		f.grace.Stop()
	}
	for _, m := range f.members {
		if m.wake != nil && m.flight == f {
			m.wake <- false
		}
	}
}
