package relay

import (
	"context"
	"slices"
	"time"

	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// handleSingly gives each event of a plan, which is a reading whose batch failed, a transaction of its own: until suspect's fate is
// known, if it isn't nil. An event that is handled after others have failed tells that they are to blame; its transaction parks
// those before it, since the cursor passes them.
func (t *term) handleSingly(ctx context.Context, plan *batch, suspect *row) (n int, err error) {
	p := &tries{blocked: map[name]bool{}}
	believed := t.back || t.gauge.failures == 0
	t.back = false
	for _, r := range plan.in(todo) {
		if ctx.Err() != nil || p.taken == 0 && len(p.open) >= probe<<min(t.gauge.failures, 10) {
			break
		}
		if p.blocked[r.aggregate()] || r.state != todo {
			continue
		}
		before := p.open
		done, f, err := t.handleSingle(ctx, p, plan, r, true, believed)
		if err != nil {
			return n, err
		}
		if t.back {
			// The outage may have ended in the middle: those that failed before are tried once more.
			t.gauge.until = time.Time{}
			return len(plan.rows), nil
		}
		p.tried++
		if f != nil {
			r.err = f.err
			p.open = append(p.open, r)
			p.blocked[r.aggregate()] = !t.cfg.Unordered
		} else if done {
			n++
			p.taken++
			for _, o := range before {
				if o.state == dead {
					delete(p.blocked, o.aggregate())
				}
			}
			t.took(1)
		}
		if suspect != nil && suspect.state != todo && len(p.open) == 0 {
			break
		}
	}
	p.open = slices.DeleteFunc(p.open, func(r *row) bool {
		if sqltx.Conflicted(r.err) {
			r.err = nil // nobody's fault
			return true
		}
		return false
	})
	if p.taken == 0 && p.tried > 0 {
		if len(p.open) > 0 {
			t.gauge.nothing(len(p.open), time.Now())
		} else {
			t.gauge.until = time.Now().Add(backoff(minOutage, maxOutage, 1))
		}
	}
	t.conclude(p, plan)
	if err := t.parkBlamed(ctx, p, plan); err != nil {
		return n, err
	}
	t.report(ctx, p)
	return len(plan.rows), nil
}

// parkBlamed parks events that are to blame, and that no transaction has passed.
func (t *term) parkBlamed(ctx context.Context, p *tries, plan *batch) error {
	for _, rows := range plan.parts {
		var last *row
		for _, r := range rows {
			if r.err != nil && r.bad == nil && (r.state == failed || r.state == dead) {
				last = r
			}
		}
		if last == nil {
			continue
		}
		if _, _, err := t.handleSingle(ctx, p, plan, last, false, true); err != nil {
			return err
		}
	}
	return nil
}

// handleSingle handles one event, unless try is false, in a transaction that passes those before it in its partition. It reports
// whether that is done. What is open is to blame then, which the transaction writes down.
func (t *term) handleSingle(run context.Context, p *tries, plan *batch, r *row, try, believed bool) (done bool, f *fault, err error) {
	verdicts := map[int64]row{}
	for _, o := range p.open {
		verdict := *o
		if sqltx.Conflicted(o.err) {
			verdict.state, verdict.after = failed, backoff(t.cfg.MinBackoff, t.cfg.MaxBackoff, 1).Seconds()
		} else {
			t.judge(&verdict, true)
		}
		if try && o.state == todo {
			verdicts[o.seq] = verdict
		}
	}
	for attempt := 1; !done; attempt++ {
		done, f, err = t.transactSingle(run, plan, r, try, verdicts, !believed && len(p.open) > 0)
		if !done && (f == nil || err != nil || !sqltx.Conflicted(f.err) || attempt == maxConflicts || sleep.For(run, backoff(5*time.Millisecond, 100*time.Millisecond, attempt)) != nil) {
			return false, f, err
		}
	}
	if !try {
		return true, nil, nil
	}
	for _, o := range p.open {
		if verdict, ok := verdicts[o.seq]; ok {
			if *o = verdict; !sqltx.Conflicted(o.err) {
				t.tell(o)
			}
		}
	}
	p.open = nil
	return true, nil, nil
}

// transactSingle is the transaction of handleSingle. back says that what failed before may have been an outage's, which r would end: then
// nothing is written, but that is noted.
func (t *term) transactSingle(run context.Context, plan *batch, r *row, try bool, verdicts map[int64]row, back bool) (bool, *fault, error) {
	planned := plan.parts[r.partition]
	limit := slices.Index(planned, r) + 1
	var b *batch
	committed, f, err := t.transact(run, func(_ context.Context, s *store) (list []*row, err error) {
		if b, err = t.read(run, s, []int{r.partition}, limit); b == nil || err != nil {
			return nil, err
		}
		rows := b.parts[r.partition]
		i := slices.IndexFunc(rows, func(x *row) bool { return x.seq == r.seq })
		if i < 0 || try && rows[i].state != todo || len(b.cursors) == 0 || b.cursors[0].Careful > 0 || b.cursors[0].Placements > 0 {
			b = nil // it has changed: the next pass knows more
			return nil, nil
		}
		for _, x := range rows[:i] {
			if !slices.ContainsFunc(planned, func(o *row) bool { return o.seq == x.seq }) {
				b = nil
				return nil, nil
			}
		}
		b.cut(r.partition, i+1)
		if try {
			return []*row{rows[i]}, nil
		}
		return nil, nil
	}, func(ctx context.Context, s *store) (bool, error) {
		if t.back = b != nil && back; b == nil || back {
			return false, nil
		}
		b.adopt(r.partition, planned, verdicts)
		return t.moveIn(ctx, s, b)
	})
	if committed {
		if try {
			r.state = sent
		}
		for _, o := range planned[:limit] {
			if o.state == todo {
				o.state = done
			}
		}
		plan.parts[r.partition] = planned[limit:]
	}
	return committed, f, err
}

// adopt gives the rows of a reading the states that a plan has found out, or verdicts say, and parks those that weren't tried: behind an
// event that failed, or, behind one that is dead, due at once.
func (b *batch) adopt(partition int, planned []*row, verdicts map[int64]row) {
	for _, x := range b.parts[partition] {
		if x.state != todo {
			continue
		}
		o := *planned[slices.IndexFunc(planned, func(o *row) bool { return o.seq == x.seq })]
		if verdict, ok := verdicts[x.seq]; ok {
			o = verdict
		}
		if o.state != todo {
			x.state, x.err, x.after, x.attempts = o.state, o.err, o.after, o.attempts
		}
	}
	b.hold(partition)
}

// handleParked handles parked events, each in a transaction that removes its row; together, where the last ones went well.
func (t *term) handleParked(ctx context.Context, rows []*row) (*tries, error) {
	p := &tries{blocked: map[name]bool{}}
	outage := t.gauge.failures > 0
	handle := func(list []*row) (*fault, error) {
		_, f, err := t.transact(ctx, func(context.Context, *store) ([]*row, error) { return list, nil }, func(ctx context.Context, s *store) (bool, error) {
			published, _, promoted := settlements(slices.DeleteFunc(slices.Clone(list), func(r *row) bool { return r.state != sent }), p)
			removed, err := s.settle(ctx, t.lease.id, published, nil, promoted)
			if err == nil && removed < int64(len(published)) {
				err = errRefused
			}
			return err == nil, err
		})
		return f, err
	}
	finish := func(list []*row) {
		for _, r := range list {
			if r.state == sent {
				r.state = done
				p.taken++
			}
		}
		if p.taken > 0 {
			t.took(p.taken)
		}
	}
	list := slices.DeleteFunc(slices.Clone(rows), func(r *row) bool { return r.state != todo })
	if t.recovering > 0 && len(list) > 1 {
		f, err := handle(list)
		if f == nil || err != nil {
			finish(list)
			return p, err
		}
	}
	for _, r := range list {
		if ctx.Err() != nil || p.taken == 0 && len(p.open) >= probe<<min(t.gauge.failures, 10) {
			break
		}
		if p.blocked[r.aggregate()] {
			continue
		}
		f, err := handle([]*row{r})
		if err != nil {
			return p, err
		}
		if f == nil {
			if finish([]*row{r}); r.state == done {
				t.blameAll(p, outage)
				outage = false
			}
			continue
		}
		p.blocked[r.aggregate()] = !t.cfg.Unordered
		if !sqltx.Conflicted(f.err) {
			r.err = f.err
			p.open = append(p.open, r)
		}
	}
	if p.taken == 0 && len(p.open) > 0 {
		t.gauge.nothing(len(p.open), time.Now())
	}
	return p, nil
}

// blameAll blames those that failed before another one was taken, unless that may have ended an outage.
func (t *term) blameAll(p *tries, outage bool) {
	for _, o := range p.open {
		if !outage {
			t.blame(p, o, true)
		}
	}
	p.open = nil
}
