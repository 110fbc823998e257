package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime/debug"
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

// name is an aggregate's.
type name struct{ kind, id string }

func (r *row) aggregate() name { return name{r.AggregateType, r.AggregateID} }

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
			if p.tried > 0 && (run.Err() != nil || time.Since(start) > t.cfg.pass) {
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
			if !t.publishCall(p, call) {
				return p
			}
		}
	}
	return p
}

// publishCall publishes one call's rows, and reports whether to go on with the pass.
func (t *term) publishCall(p *tries, call []*row) (goOn bool) {
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
		if len(p.open) > 0 {
			t.decide(p, p.open)
			p.open = nil
		}
		t.took(taken)
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
	if over || t.gauge.told || t.blocked {
		t.recovered()
	}
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

var (
	errPublishTimeout = errors.New("relay: the call took longer than Config.PublishTimeout")
	errPutOff         = errors.New("relay: not tried by itself") // not to blame
	errGoexit         = errors.New("relay: the call ended its goroutine")
)

// patience is how long a call of Publish may go on after its context has ended before it is left behind.
const patience = 2 * time.Second

// call publishes a batch, or handles it. The errors are those of the events, nil for all of them published; culprit is false if they don't
// tell which event was to blame: the publisher panicked, hung, or returned something else than an error for each.
func (t *term) call(publish func(context.Context, []outbox.Event) []error, events []outbox.Event) (errs []error, culprit bool) {
	ctx, cancel := context.WithTimeoutCause(t.lease.ctx, t.cfg.PublishTimeout, errPublishTimeout)
	defer cancel()
	type result struct {
		errs []error
		err  error // of the call as a whole
	}
	done := make(chan result, 1)
	try := Try{Destination: t.address, Consumer: t.begin != nil, Events: events}
	trace, began := t.cfg.Trace, time.Now()
	if trace.Trying != nil {
		ctx = trace.Trying(ctx, try)
	}
	if trace.Tried != nil {
		defer func() { trace.Tried(ctx, try, errs, time.Since(began)) }()
	}
	go func() {
		res := result{err: errGoexit}
		defer func() {
			if p := recover(); p != nil {
				res = result{err: fmt.Errorf("relay: the call panicked with a %T", p)} // its text may hold anything
				t.log.ErrorContext(ctx, "outbox relay: the publisher panicked", "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			}
			done <- res
		}()
		errs := publish(ctx, events)
		for _, err := range errs {
			if err != nil {
				_ = err.Error() // which panics here, where that is contained, if it is a nil pointer of some type
			}
		}
		res = result{errs: errs}
	}()
	var res result
	select {
	case res = <-done:
	case <-ctx.Done():
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case res = <-done:
		case <-timer.C:
			res.err = context.Cause(ctx)
			t.events = nil // which it still has
			t.log.ErrorContext(ctx, "outbox relay: the publisher goes on after its context has ended, and is left behind", "events", len(events))
		}
	}
	if res.err == nil && res.errs != nil && len(res.errs) != len(events) {
		res.err = fmt.Errorf("relay: Publish returned %d errors for %d events", len(res.errs), len(events))
	}
	if res.err != nil {
		errs = make([]error, len(events))
		for i := range errs {
			errs[i] = res.err
		}
		return errs, len(events) == 1
	}
	failed := 0
	for _, err := range res.errs {
		if err != nil {
			failed++
		}
	}
	if failed == 0 {
		return nil, true
	}
	// Of several that were under way when the time was up, one may have held up the others.
	return res.errs, failed == 1 || ctx.Err() == nil
}

// maxCulprits is how many events of one batch may be found to hold up the others before the rest is put off.
const maxCulprits = 2

// publish publishes a batch and returns the error of each row, nil for all of them published. Where those of the batch don't tell which event was to
// blame, its events are published one by one until that is found out.
func (t *term) publish(rows []*row) []error {
	events := t.events[:0]
	for _, r := range rows {
		events = append(events, r.Event)
	}
	t.events = events
	errs, culprit := t.call(t.publisher.Publish, events)
	if !culprit {
		errs = slices.Clone(errs) // they may be the publisher's
		t.log.WarnContext(t.lease.ctx, "outbox relay: a batch failed as a whole, publishing its events one by one", "events", len(events), "error", firstError(errs))
		culprits, refused := 0, map[name]bool{}
		for i, r := range rows {
			switch {
			case errs[i] == nil || t.lease.lost():
				continue
			case culprits == maxCulprits || refused[r.aggregate()]: // an ordered publisher's batch may have later ones of an aggregate
				errs[i] = errPutOff
				continue
			}
			if single, _ := t.call(t.publisher.Publish, events[i:i+1]); single == nil {
				errs[i] = nil
			} else {
				errs[i] = single[0]
				culprits++
				refused[r.aggregate()] = !t.cfg.Unordered
			}
		}
	}
	for i, r := range rows {
		if errs == nil || errs[i] == nil {
			t.count(r)
		}
	}
	return errs
}

// count notes that an event is published, or handled.
func (t *term) count(r *row) {
	t.lease.published.Add(1)
	if f := t.cfg.Trace.Published; f != nil {
		f(t.lease.ctx, r.Event, time.Since(r.put))
	}
}

func firstError(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
