package relay

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"time"

	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/outbox"
)

// state is what became of a row in a pass.
type state int8

const (
	todo   state = iota // not tried, or nobody knows whose fault it was
	sent                // published
	failed              // it is to blame: parked, with an attempt counted
	dead                // given up
	held                // it waits behind another one of its aggregate: parked, without an attempt
	done                // nothing to do: the subscription isn't about it, or it is parked already
)

// maxPass is how long a pass goes on with further calls. What was published is written down first.
const maxPass = time.Second

// rounds splits the rows that are to be tried so that no round has two events of one aggregate, and each has those that come
// after the ones of the round before. A publisher that keeps the order gets all in one.
func (t *term) rounds(rows []*row) [][]*row {
	var split [][]*row
	if t.seen == nil {
		t.seen, t.seed = map[uint64]int{}, maphash.MakeSeed()
	}
	clear(t.seen)
	probing := t.gauge.failures > 0
	open := make([]*row, 0, len(rows))
	for _, r := range rows {
		if r.state == todo {
			open = append(open, r)
		}
	}
	if t.cfg.Unordered && probing && len(open) > 0 {
		from := t.gauge.from % len(open)
		open = append(slices.Clone(open[from:]), open[:from]...)
	}
	for _, r := range open {
		n := 0
		if !t.ordered || probing {
			a := maphash.Comparable(t.seed, r.aggregate()) // two of one hash are taken for one
			n = t.seen[a]
			t.seen[a] = n + 1
		}
		if n == len(split) {
			split = append(split, make([]*row, 0, len(rows)/(n+1)+1))
		}
		split[n] = append(split[n], r)
	}
	if len(split) == 0 {
		return nil
	}
	// In an outage each probe takes the next aggregates. Otherwise those come first that were refused before: what is taken after
	// them tells that it is their fault.
	first := split[0]
	if probing && !t.cfg.Unordered {
		from := t.gauge.from % len(first)
		split[0] = append(slices.Clone(first[from:]), first[:from]...)
	} else if len(t.doubt) > 0 && !t.ordered {
		slices.SortStableFunc(first, func(a, b *row) int { return cmp.Compare(t.doubt[b.seq], t.doubt[a.seq]) })
	}
	return split
}

// tries is what a pass found out. Rows that failed are open until something is taken after them.
type tries struct {
	open    []*row
	blocked map[name]bool // aggregates whose later events wait
	tried   int
	taken   int
}

// publishRows publishes rows in their aggregates' order, as far as the destination takes them, and sets their states.
func (t *term) publishRows(run context.Context, rows []*row) *tries {
	p := &tries{blocked: map[name]bool{}}
	start := time.Now()
	for _, round := range t.rounds(rows) {
		for len(round) > 0 {
			if p.tried > 0 && (run.Err() != nil || time.Since(start) > maxPass) {
				return p
			}
			n := t.gauge.size(t.cfg.BatchSize)
			call := make([]*row, 0, min(n, len(round)))
			for len(call) < n && len(round) > 0 {
				if r := round[0]; len(p.blocked) == 0 || !p.blocked[r.aggregate()] {
					call = append(call, r)
				}
				round = round[1:]
			}
			if len(call) == 0 {
				break
			}
			if wait := time.Until(t.gauge.next); t.gauge.rate > 0 && wait > 0 && sleep.For(run, wait) != nil {
				return p
			}
			if !t.call1(p, call) {
				return p
			}
		}
	}
	return p
}

// call1 publishes one call's rows, and reports whether to go on with the pass.
func (t *term) call1(p *tries, call []*row) (goOn bool) {
	p.tried += len(call)
	errs := t.publish(call)
	now := time.Now()
	if t.gauge.rate > 0 {
		t.gauge.next = now.Add(time.Duration(float64(len(call)) / t.gauge.rate * float64(time.Second)))
	}
	last, taken, putOff := -1, 0, 0
	var pause time.Duration
	for i, r := range call {
		if errs == nil || errs[i] == nil {
			r.state, r.err = sent, nil
			last = i
			taken++
		}
	}
	p.taken += taken
	if taken == len(call) {
		t.decide(p, p.open)
		p.open = nil
		t.recovered(t.gauge.took(taken, now))
		return true
	}
	if t.lease.lost() {
		return false // broken off: it is nobody's fault
	}
	var refused []*row
	for i, r := range call {
		if r.state == sent {
			continue
		}
		if !t.cfg.Unordered {
			if p.blocked[r.aggregate()] {
				continue // an earlier one of its aggregate was refused in the same call
			}
			p.blocked[r.aggregate()] = true
		}
		r.err = errs[i]
		if after, ok := retryAfter(r.err); ok && !errors.Is(r.err, outbox.ErrPermanent) {
			putOff++
			pause = max(pause, after)
		}
		if i < last {
			refused = append(refused, r)
		}
	}
	probing := t.gauge.failures > 0
	if taken == 0 {
		for _, r := range call {
			if r.err != nil {
				p.open = append(p.open, r)
			}
		}
		t.gauge.nothing(len(call), now)
	}
	if putOff > 0 {
		t.gauge.refused(taken, pause, now)
	}
	if taken == 0 {
		return false
	}
	t.decide(p, p.open)
	p.open = nil
	until := t.gauge.until
	over := t.gauge.took(taken, now)
	if putOff > 0 {
		t.gauge.until = until
	}
	if probing && putOff == 0 && len(refused) > 0 {
		// The destination may have come back in the middle of the call: those that it refused first are tried once more.
		t.again(refused)
	}
	t.decide(p, refused)
	for i, r := range call {
		if i > last && r.err != nil {
			p.open = append(p.open, r)
		}
	}
	t.recovered(over)
	return putOff == 0
}

// again publishes rows that were refused once more.
func (t *term) again(rows []*row) {
	errs := t.publish(rows)
	for i, r := range rows {
		if errs == nil || errs[i] == nil {
			r.state, r.err = sent, nil
		} else {
			r.err = errs[i]
		}
	}
}

// decide says of rows that were refused, before another event was taken, that it is their own fault. One that is to come later
// is believed once: the rate may have been too high.
func (t *term) decide(p *tries, rows []*row) {
	for _, r := range rows {
		if r.state != todo || errors.Is(r.err, errPutOff) {
			if r.state == sent {
				delete(p.blocked, r.aggregate())
			}
			continue
		}
		if _, ok := retryAfter(r.err); ok && t.doubt[r.seq] == 0 && r.kind != parkedRow && !errors.Is(r.err, outbox.ErrPermanent) {
			continue
		}
		t.blame(p, r, true)
	}
}

// blame counts an attempt of an event that is to blame, and says what becomes of it.
func (t *term) blame(p *tries, r *row, proven bool) {
	t.judge(r, proven)
	if r.state == dead {
		delete(p.blocked, r.aggregate())
	}
	t.tell(r)
}

// judge is blame that isn't told yet.
func (t *term) judge(r *row, proven bool) {
	r.attempts++
	isDead, delay := t.cfg.failed(r.attempts, r.err, proven)
	r.state, r.after = failed, delay.Seconds()
	if isDead {
		r.state = dead
	}
}

// tell reports an event that was judged.
func (t *term) tell(r *row) {
	ctx := context.WithoutCancel(t.lease.ctx)
	delay := time.Duration(r.after * float64(time.Second))
	attrs := []any{"event", r.ID, "type", r.Type, "aggregate", r.AggregateType + "/" + r.AggregateID, "attempt", r.attempts, "error", lastError(r.err)}
	if r.state == dead {
		t.log.ErrorContext(ctx, "outbox relay: event is dead", attrs...)
	} else {
		t.log.WarnContext(ctx, "outbox relay: event failed", append(attrs, "wait", delay)...)
	}
	if f := t.cfg.Trace.Failed; f != nil {
		f(ctx, r.Event, r.attempts, r.err, delay)
	}
	if f := t.cfg.Trace.Dead; f != nil && r.state == dead {
		f(ctx, r.Event, r.attempts, r.err)
	}
}
