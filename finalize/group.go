package finalize

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/endstate-go/endstate/guard"
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

// groups are the tenants' groups, while they have calls under way. What a connection of the pool shows may depend on who it was
// taken for, so a statement is for one tenant's calls only.
type groups struct {
	mu       sync.Mutex
	byTenant map[string]*group
}

// enter returns the tenant's group, and how many of its calls are under way with this one.
func (gs *groups) enter(tenant string) (g *group, calls int) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g = gs.byTenant[tenant]
	if g == nil {
		if gs.byTenant == nil {
			gs.byTenant = map[string]*group{}
		}
		g = &group{}
		gs.byTenant[tenant] = g
	}
	g.calls++
	return g, g.calls
}

// leave forgets the tenant's group after its last call.
func (gs *groups) leave(tenant string) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.byTenant[tenant]
	if g.calls--; g.calls == 0 {
		delete(gs.byTenant, tenant)
	}
}

// group gathers one tenant's calls for keys of one shape. The goroutine of one of the calls, the leader, does the work for all
// of them, so there is none to look after.
type group struct {
	calls  int // under way, alone or in groups, or waiting; the groups' mutex guards it
	mu     sync.Mutex
	flying int // leaders
	queue  []*member
}

// member is a call that waits to be led, or to lead.
type member struct {
	a    *attempt
	wake chan *flight // nil: it leads
}

// flight is one statement for several members.
type flight struct {
	cancel context.CancelFunc
	once   sync.Once
	grace  *time.Timer
	done   chan struct{}
	err    error
	result map[*attempt]settled
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
	next.wake <- nil
}

// settleGrouped settles one attempt, alone or with others that are waiting.
func (d *pgxDB) settleGrouped(ctx context.Context, j *joined, a *attempt) (guard.Record, bool, error) {
	cfg := &d.cfg.Group
	if cfg.Off {
		return d.settleOnce(ctx, j, a)
	}
	g, calls := j.groups.enter(a.ref.Tenant)
	defer j.groups.leave(a.ref.Tenant)
	if calls <= cfg.From && cfg.Wait == 0 {
		return d.settleOnce(ctx, j, a)
	}
	got, err := d.join(ctx, j, g, a)
	if err != nil || got.done {
		return got.rec, got.won, err
	}
	return d.settleOnce(ctx, j, a)
}

// join leads a group, or waits for one to take a along. It returns what that learnt of a, or done=false if a must go alone.
func (d *pgxDB) join(ctx context.Context, j *joined, g *group, a *attempt) (settled, error) {
	cfg := d.cfg.Group
	m := &member{a: a}
	g.mu.Lock()
	if g.flying < cfg.Writers && len(g.queue) == 0 {
		g.flying++
		g.mu.Unlock()
		return d.lead(ctx, j, g, m)
	}
	m.wake = make(chan *flight, 1)
	g.queue = append(g.queue, m)
	g.mu.Unlock()

	var f *flight
	select {
	case f = <-m.wake:
	case <-ctx.Done():
		if g.leave(m) {
			return settled{}, fmt.Errorf("waiting for other calls of this process: %w", context.Cause(ctx))
		}
		f = <-m.wake
	}
	if f == nil {
		return d.lead(ctx, j, g, m)
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		f.giveGrace()
		<-f.done
	}
	return f.result[a], f.err
}

// leave takes m out of the queue, if it is still there.
func (g *group) leave(m *member) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, other := range g.queue {
		if other == m {
			g.queue = append(g.queue[:i], g.queue[i+1:]...)
			return true
		}
	}
	return false
}

// lead settles m and those who wait. Alone it is an ordinary Settle.
func (d *pgxDB) lead(ctx context.Context, j *joined, g *group, m *member) (settled, error) {
	p := &place{g: g}
	defer p.pass()
	if wait := d.cfg.Group.Wait; wait > 0 {
		_ = sleep.For(ctx, wait)
	}
	if ctx.Err() != nil {
		return settled{}, context.Cause(ctx)
	}
	patience := time.AfterFunc(groupPatience, p.pass)
	defer patience.Stop()
	others := g.take(d.cfg.Group.Max-1, bulkBytes-m.a.size)
	if len(others) == 0 {
		rec, won, err := d.settleOnce(ctx, j, m.a)
		return settled{rec, won, true}, err
	}
	// The leader's context must not end the others' calls: the statement is told to stop only some time after anybody's
	// has ended, which a statement that doesn't wait hardly ever sees. Its values stay, by which a pool knows the tenant.
	flying, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	f := &flight{cancel: cancel, done: make(chan struct{})}
	defer f.land()
	stop := context.AfterFunc(ctx, f.giveGrace)
	defer stop()
	attempts := make([]*attempt, 0, len(others)+1)
	attempts = append(attempts, m.a)
	for _, other := range others {
		attempts = append(attempts, other.a)
		other.wake <- f
	}
	// All such statements lock in one order.
	slices.SortFunc(attempts, func(a, b *attempt) int { return strings.Compare(a.Key, b.Key) })
	f.fly(flying, d, attempts)
	return f.result[m.a], f.err
}

// take takes up to limit from the queue, with no more payload than bytes.
func (g *group) take(limit, bytes int) []*member {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for n < min(limit, len(g.queue)) && g.queue[n].a.size <= bytes {
		bytes -= g.queue[n].a.size
		n++
	}
	taken := g.queue[:n:n]
	g.queue = g.queue[n:]
	return taken
}

// fly runs the statement. An error that concerns only some, or that each can be told better alone, is no error of the flight:
// then nothing was settled, and everyone goes alone.
func (f *flight) fly(ctx context.Context, d *pgxDB, attempts []*attempt) {
	f.err = errUnanswered // should this goroutine end in there, by a panic of a tracer's for instance: then each may have been settled
	results, err := d.settleBulk(ctx, attempts)
	f.err = nil
	switch {
	case err == nil:
		f.result = make(map[*attempt]settled, len(attempts))
		for i, a := range attempts {
			f.result[a] = results[i]
		}
	case errors.Is(err, errUnanswered), errors.Is(err, ErrBusy), errors.Is(err, errNoConnection):
		f.err = err
	}
}

// giveGrace stops the statement, if it is still running some time after a member's context has ended.
func (f *flight) giveGrace() {
	f.once.Do(func() { f.grace = time.AfterFunc(interruptGrace, f.cancel) })
}

// land tells the members that the flight is over.
func (f *flight) land() {
	f.once.Do(func() {})
	if f.grace != nil {
		f.grace.Stop()
	}
	close(f.done)
}
