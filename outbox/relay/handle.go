package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// errRefused rolls back what was handled of another's partition.
var errRefused = errors.New("relay: the move is refused, the partition is another's")

// fault is why a transaction of a consumer was rolled back, where the database isn't to blame.
type fault struct {
	row *row // nil: one of them
	err error
}

// maxConflicts is how often a transaction is tried again that a concurrent one broke off, before it is made smaller, or put off.
const maxConflicts = 5

// transact runs, in one transaction, read, the handler for each row that it returns, while there is time, and write, and commits
// if that wrote anything. Rows that were handled are sent, if it is committed. An error is the database's: whether a COMMIT without an answer took effect, the next reading tells, since
// the cursor's token, or the parked row, is of the same transaction.
func (t *term) transact(run context.Context, read func(ctx context.Context, s *store) ([]*row, error), write func(ctx context.Context, s *store) (bool, error)) (committed bool, f *fault, err error) {
	ctx := t.lease.ctx // a shutdown lets the batch finish
	w, err := t.begin(ctx)
	if err != nil {
		return conflict(fmt.Errorf("begin: %w", err))
	}
	var handled []*row
	defer func() {
		for _, r := range handled {
			if !committed {
				r.state = todo
			}
		}
		w.reclaim()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		w.drop(ctx)
	}()
	if !t.db.sqlite() {
		if err := w.limit(ctx, t.cfg.LeaseTTL/2); err != nil {
			return false, nil, err
		}
	}
	s := t.store.in(w.Tx)
	rows, err := read(ctx, s)
	if err != nil {
		return conflict(err)
	}
	if t.db.sqlite() && len(rows) > 0 {
		// The one writer's lock, before a handler finds that there was another one since the reading.
		if _, err := w.Exec(ctx, fmt.Sprintf("UPDATE %s SET token = token WHERE 1 = 0", s.cursors)); err != nil {
			return conflict(err)
		}
	}
	start := time.Now()
	for i, r := range rows {
		if i > 0 && (run.Err() != nil || time.Since(start) > maxPass) {
			break
		}
		if f, err := t.handleOne(ctx, w, r); f != nil || err != nil {
			return false, f, err
		}
		r.state = sent
		handled = append(handled, r)
	}
	var only *row
	if len(handled) == 1 {
		only = handled[0]
	}
	if t.db.pool == nil && len(handled) > 0 {
		if err := w.look(ctx); errors.Is(err, errCut) {
			return false, nil, err
		} else if err != nil {
			return false, &fault{only, err}, nil
		}
	}
	w.reclaim()
	if t.lease.lost() {
		return false, nil, errLeaseLost
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.LeaseTTL/2)
	defer cancel()
	switch wrote, err := write(ctx, s); {
	case errors.Is(err, errRefused):
		t.log.WarnContext(ctx, "outbox relay: moves refused, the partitions are another's; nothing was done", "events", len(handled))
		return false, nil, nil
	case err != nil:
		return conflict(err)
	case !wrote:
		return false, nil, nil
	}
	switch err := w.commit(ctx); {
	case err == nil:
		t.conflicts, t.cuts = 0, 0
		t.count(len(handled), start)
		return true, nil, nil
	case sqltx.Definite(err) || sqltx.RolledBack(err):
		return false, &fault{only, err}, nil
	default:
		return false, nil, fmt.Errorf("commit: %w", err)
	}
}

// conflict has an error be a fault if it is what a concurrent transaction did to a statement of the consumer's own.
func conflict(err error) (bool, *fault, error) {
	if sqltx.Conflicted(err) {
		return false, &fault{err: err}, nil
	}
	return false, nil, err
}

// handleOne calls the handler for one event.
func (t *term) handleOne(ctx context.Context, w *work, r *row) (*fault, error) {
	errs, _ := t.call(func(ctx context.Context, events []outbox.Event) []error {
		if err := w.handle(ctx, events[0]); err != nil {
			return []error{err}
		}
		return nil
	}, []outbox.Event{r.Event})
	if t.lease.lost() {
		return nil, errLeaseLost
	}
	if errs != nil && (errors.Is(errs[0], errPublishTimeout) || errors.Is(errs[0], context.DeadlineExceeded)) {
		return &fault{r, errs[0]}, nil // it is no wonder if the connection is gone
	}
	if errs == nil && t.db.pool == nil {
		return nil, nil // a look is a trip there
	}
	state := w.look(ctx)
	switch {
	case errors.Is(state, errCut):
		// The database is away; but an event with which it always goes away is to blame.
		if t.cutBy != r.seq {
			t.cuts, t.cutBy = 0, r.seq
		}
		if t.cuts++; t.cuts < 3 {
			return nil, errors.Join(append(errs, state)...)
		}
		return &fault{r, errors.Join(append(errs, state)...)}, nil
	case errs != nil:
		return &fault{r, errs[0]}, nil
	case state != nil:
		return &fault{r, state}, nil
	}
	return nil, nil
}

// consume is the pass of a consumer: it reads, handles and moves in one transaction, or, where that fails, in one for each event.
func (t *term) consume(ctx context.Context) (rows int, err error) {
	limit := t.limit()
	if err := t.noteLimit(ctx, limit); err != nil {
		return 0, err
	}
	var b *batch
	if t.gauge.failures > 0 || t.conflicts >= maxConflicts {
		if b, err = t.read(ctx, t.store, t.turn(), limit); b == nil || err != nil {
			return 1, err
		}
		t.look(b)
		if len(b.todo()) > 0 {
			return t.handleSingly(ctx, b, nil)
		}
	}
	_, f, err := t.transact(ctx, func(_ context.Context, s *store) (list []*row, err error) {
		if b, err = t.read(ctx, s, t.turn(), limit); b == nil || err != nil {
			return nil, err
		}
		t.look(b)
		return b.todo(), nil
	}, func(ctx context.Context, s *store) (bool, error) {
		if b == nil {
			return false, nil
		}
		for p, rows := range b.parts {
			if i := slices.IndexFunc(rows, func(r *row) bool { return r.state == todo }); i >= 0 {
				b.cut(p, i)
			}
		}
		return t.moveIn(ctx, s, b)
	})
	switch {
	case err != nil:
		return 0, err
	case f == nil && b == nil:
		return 1, nil // it was tried smaller
	case f == nil:
		if n := len(b.sent()); n > 0 {
			t.recovered(t.gauge.took(n, time.Now()))
		}
		return len(b.rows), nil
	case sqltx.Conflicted(f.err):
		t.conflicts++
		t.gauge.until = time.Now().Add(backoff(10*time.Millisecond, time.Second, t.conflicts))
		return 0, nil
	}
	t.log.WarnContext(ctx, "outbox relay: a batch failed, its events get a transaction each", "events", len(b.todo()), "error", lastError(f.err))
	return t.handleSingly(ctx, b, f.row)
}

// moveIn moves the cursors of a batch in a transaction, all of them or none.
func (t *term) moveIn(ctx context.Context, s *store, b *batch) (bool, error) {
	var moves []move
	var parks []park
	for i := range b.cursors {
		c := &b.cursors[i]
		if m, mine, needed := b.moveOf(c, false, false); needed {
			moves, parks = append(moves, m), append(parks, mine...)
		}
	}
	if len(moves) == 0 {
		return false, nil
	}
	moved, err := s.move(ctx, moves, b.cursors[0].Now, b.cursors[0].Incarnation, parks)
	if err == nil && len(moved) < len(moves) {
		err = errRefused
	}
	if len(parks) > 0 {
		t.waiting, t.nextDue = true, time.Now()
	}
	return err == nil, err
}

func (b *batch) todo() []*row { return b.in(todo) }
func (b *batch) sent() []*row { return b.in(sent) }

func (b *batch) in(s state) (list []*row) {
	for _, r := range b.rows {
		if r.state == s {
			list = append(list, r)
		}
	}
	return list
}

// cut leaves a partition its first n rows, as if no more had been read.
func (b *batch) cut(partition, n int) {
	rows := b.parts[partition]
	if slices.ContainsFunc(rows[n:], func(r *row) bool { return r.kind == lateRow }) {
		b.pieces[partition] = true
	}
	b.parts[partition] = rows[:n]
}

// handleSingly gives each event of a plan, which is a reading whose batch failed, a transaction of its own: until suspect's fate is
// known, if it isn't nil. An event that is handled after others have failed tells that they are to blame; its transaction parks
// those before it, since the cursor passes them.
func (t *term) handleSingly(ctx context.Context, plan *batch, suspect *row) (n int, err error) {
	p := &tries{blocked: map[name]bool{}}
	believed := t.back || t.gauge.failures == 0
	t.back = false
	for _, r := range plan.todo() {
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
			t.recovered(t.gauge.took(1, time.Now()))
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
// whether that is done.
func (t *term) handleSingle(run context.Context, p *tries, plan *batch, r *row, try, believed bool) (done bool, f *fault, err error) {
	for attempt := 1; ; attempt++ {
		var judged []*row
		done, f, err = t.transactSingle(run, plan, r, try, func() bool {
			if t.back = !believed && len(p.open) > 0; t.back {
				return false
			}
			for _, o := range p.open {
				if try && o.state == todo {
					if sqltx.Conflicted(o.err) {
						o.state, o.after = failed, backoff(t.cfg.MinBackoff, t.cfg.MaxBackoff, 1).Seconds()
						continue
					}
					t.judge(o, true)
					judged = append(judged, o)
				}
			}
			return true
		})
		if done {
			break
		}
		for _, o := range p.open {
			if try && o.state != todo {
				if slices.Contains(judged, o) {
					o.attempts--
				}
				o.state = todo
			}
		}
		if f == nil || err != nil || !sqltx.Conflicted(f.err) || attempt == maxConflicts || sleep.For(run, backoff(5*time.Millisecond, 100*time.Millisecond, attempt)) != nil {
			return false, f, err
		}
	}
	if try {
		for _, o := range p.open {
			if o.state != todo && !sqltx.Conflicted(o.err) {
				t.tell(o)
			}
		}
		p.open = nil
	}
	return true, nil, nil
}

func (t *term) transactSingle(run context.Context, plan *batch, r *row, try bool, judge func() bool) (bool, *fault, error) {
	planned := plan.parts[r.partition]
	limit := slices.Index(planned, r) + 1
	var b *batch
	committed, f, err := t.transact(run, func(_ context.Context, s *store) (list []*row, err error) {
		if b, err = t.read(run, s, []int{r.partition}, limit); b == nil || err != nil {
			return nil, err
		}
		rows := b.of(r.partition)
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
		if b == nil || !judge() {
			return false, nil
		}
		b.adopt(r.partition, planned, t.cfg.Unordered)
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

// adopt gives the rows of a reading the states that a plan has found out. Those that weren't tried are parked: behind an event
// that failed, or, behind one that is dead, due at once.
func (b *batch) adopt(partition int, planned []*row, unordered bool) {
	waiting := map[name]bool{}
	for _, x := range b.of(partition) {
		if x.state != todo {
			continue
		}
		if i := slices.IndexFunc(planned, func(o *row) bool { return o.seq == x.seq }); planned[i].state != todo {
			x.state, x.err, x.after, x.attempts = planned[i].state, planned[i].err, planned[i].after, planned[i].attempts
		} else if x.state = failed; waiting[x.aggregate()] && !unordered {
			x.state = held
		}
		if x.state != dead {
			waiting[x.aggregate()] = true
		}
	}
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
			t.recovered(t.gauge.took(p.taken, time.Now()))
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
