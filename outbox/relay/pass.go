package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/endstate-go/endstate/outbox"
)

// work publishes until run ends or the lease is lost. An error is one that no repetition fixes.
func (t *term) work(run context.Context) error {
	ctx, cancel := context.WithCancel(run) // of everything but publishing and moving, which a shutdown lets finish
	defer cancel()
	defer context.AfterFunc(t.lease.ctx, cancel)()
	defer t.leave()
	poll, failures := t.cfg.firstPoll, 0
	for ctx.Err() == nil {
		n, err := t.round(ctx)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, ErrSequence):
			return err
		case err != nil:
			failures++
			t.reconnecting(ctx, err, failures)
		case n > 0:
			poll, failures = t.cfg.firstPoll, 0
		case t.wait(ctx, t.idle(poll)):
			poll, failures = t.cfg.firstPoll, 0
		default:
			poll, failures = min(poll*3/2, t.cfg.PollInterval), 0
		}
	}
	return nil
}

// balancing is how often the relay looks at how the partitions are spread: soon again, while it doesn't have its share.
func (t *term) balancing() time.Duration {
	usual := min(t.cfg.LeaseTTL/5, t.cfg.balanceEvery)
	if t.uneven {
		return min(usual, 20*time.Millisecond<<min(t.hurried, 10))
	}
	return usual
}

// idle is how long to wait for something to do.
func (t *term) idle(poll time.Duration) time.Duration {
	wait := min(poll, time.Until(t.balanced.Add(t.balancing())))
	if t.waiting {
		wait = min(wait, time.Until(t.nextDue))
	}
	if until := time.Until(t.gauge.until); until > 0 {
		wait = min(until, t.balancing()) // there is nothing to do before
	}
	return wait
}

// wait waits until it is time, or the relay is woken.
func (t *term) wait(ctx context.Context, d time.Duration) (woken bool) {
	if d <= 0 {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-t.wake:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}

// round shares the partitions if it is time, and then takes one step of each kind that there is to do. It returns how many
// events they had.
func (t *term) round(ctx context.Context) (events int, err error) {
	if time.Since(t.balanced) >= t.balancing() {
		t.forget()
		if err := t.housekeep(ctx); err != nil {
			return 0, err
		}
	}
	if t.owned == 0 {
		return 0, nil
	}
	if t.placing {
		if err := t.place(ctx); err != nil {
			return 0, fmt.Errorf("place the cursors: %w", err)
		}
	}
	if t.careful {
		n, err := t.beCareful(ctx)
		events += n
		if err != nil {
			return events, fmt.Errorf("take care: %w", err)
		}
	}
	pausing := func() bool { return time.Now().Before(t.gauge.until) }
	if !pausing() {
		pass := t.pass
		if t.begin != nil {
			pass = t.consume
		}
		n, err := pass(ctx)
		events += n
		if err != nil {
			return events, err
		}
	}
	if t.waiting && !pausing() && !time.Now().Before(t.nextDue) {
		n, err := t.passParked(ctx)
		events += n
		if err != nil {
			return events, err
		}
	}
	if pausing() {
		return 0, nil
	}
	return events, nil
}

// batch is what one reading brought, by its snapshot.
type batch struct {
	cursors   []cursor
	rows      []*row // in the order of seq
	parts     [outbox.Partitions][]*row
	large     []*row // to be published, but their payloads aren't here yet
	unordered bool
	pieces    [outbox.Partitions]bool // partitions with more late rows than these: nothing fresh goes before the last of them
}

func bySeq(a, b *row) int { return cmp.Compare(a.seq, b.seq) }

// batchBytes bounds what a relay holds in memory of one batch.
const batchBytes = 8 << 20

// newBatch puts a reading in order: an aggregate's events by seq, no more of them than memory shall hold, late ones first.
func (t *term) newBatch(cursors []cursor, rows []row, limit, budget int) *batch {
	b := &batch{cursors: cursors, rows: make([]*row, 0, len(rows)), unordered: t.cfg.Unordered}
	var late [outbox.Partitions]int
	for i := range rows {
		if r := &rows[i]; r.kind == lateRow {
			if late[r.partition]++; late[r.partition] >= limit {
				b.pieces[r.partition] = true
			}
		}
	}
	for i := range rows {
		if r := &rows[i]; r.kind == lateRow || !b.pieces[r.partition] {
			b.rows = append(b.rows, r)
		}
	}
	slices.SortFunc(b.rows, bySeq)
	size := 0
	for i, r := range b.rows {
		switch {
		case r.passed:
			r.state = done
		case len(t.sent) > 0 && t.sent[r.partition][r.seq]:
			r.state = sent
		case r.bad != nil:
			r.state, r.err = dead, fmt.Errorf("the row can't be read: %w", r.bad)
		case r.behind && !t.cfg.Unordered:
			r.state = held
		default:
			if size += r.size; size > budget && i > 0 {
				for _, cut := range b.rows[i:] {
					if cut.kind == lateRow {
						b.pieces[cut.partition] = true
					}
				}
				clear(b.rows[i:])
				b.rows = b.rows[:i]
			}
		}
		if i == len(b.rows) {
			break
		}
		if r.state == todo && r.size > inline {
			b.large = append(b.large, r)
		}
		b.parts[r.partition] = append(b.parts[r.partition], r)
	}
	return b
}

// in are the rows in a state.
func (b *batch) in(s state) (list []*row) {
	for _, r := range b.rows {
		if r.state == s {
			list = append(list, r)
		}
	}
	return list
}

// limit is how many rows of a partition to read: together, those that have any bring about a batch.
func (t *term) limit() int {
	limit := max(1, t.cfg.BatchSize/max(1, t.active))
	if t.gauge.rate > 0 {
		limit = min(limit, max(probe, int(2*t.gauge.rate)))
	}
	if n := t.gauge.failures; n > 1 && (n < 16 || n%16 == 0) {
		// It may be no outage, but many aggregates that fail in front of others that don't. Later that is looked at now and then.
		limit = min(t.cfg.BatchSize<<min(t.gauge.failures-1, 8), maxBatchSize)
	}
	return max(1, limit>>t.shrunk)
}

// turns are the partitions to read, one part after the other: all at once, but for a relay that is busy, which reads one half of its
// own while it publishes the other, and for readings that time out.
func (t *term) turns() [][]int {
	if n := max(1, t.partitions>>t.shrunk); n < t.partitions {
		list := make([]int, n)
		for i := range list {
			list[i] = (t.from + i) % t.partitions
		}
		t.from = (t.from + n) % t.partitions
		return [][]int{list}
	}
	if half := len(t.mine) / 2; half > 0 && t.busy() {
		return [][]int{t.mine[:half], t.mine[half:]}
	}
	return [][]int{t.every}
}

// busy reports whether there is more to publish than a batch, and nothing else to look after.
func (t *term) busy() bool {
	return t.full && t.begin == nil && !t.waiting && !t.careful && !t.placing && !t.blocked && t.gauge.failures == 0 && t.gauge.rate == 0 && len(t.sent)+len(t.doubt) == 0
}

// noteLimit writes down how many rows of a partition a reading may bring: who takes over after a crash has to be careful with them.
func (t *term) noteLimit(ctx context.Context, limit int) error {
	if limit <= t.noted {
		return nil
	}
	if err := t.store.run(ctx, fmt.Sprintf("UPDATE %s SET batch = CAST($3 AS integer) WHERE %s AND batch < CAST($3 AS integer)", t.store.cursors, t.store.owned()), t.cfg.Subscription, t.lease.id, limit); err != nil {
		return err
	}
	t.noted = limit
	return nil
}

// errAssigned says that something wrote before the reading, in its transaction: then its move's id may be older than its snapshot.
var errAssigned = errors.New("relay: the reading's transaction has an id; what wrote in it, a hook of the driver's?")

// reading is what was read, or, until done, is being read.
type reading struct {
	partitions []int
	limit      int
	done       chan struct{}
	cursors    []cursor
	rows       []row
	err        error
}

// startReading reads beside the caller, by a cursor that no move of this relay is under way for.
func (t *term) startReading(ctx context.Context, partitions []int, limit int) *reading {
	r := &reading{partitions: partitions, limit: limit, done: make(chan struct{})}
	if n := len(t.spare); n > 0 {
		r.rows, t.spare = t.spare[n-1], t.spare[:n-1]
	}
	go func() {
		defer close(r.done)
		r.cursors, r.rows, r.err = t.store.read(ctx, t.lease.id, partitions, limit, r.rows)
	}()
	return r
}

// forget waits for what is read ahead, so that nothing is.
func (t *term) forget() {
	if t.ahead != nil {
		<-t.ahead.done
		t.ahead = nil
	}
}

// arrange makes a batch of what was read.
func (t *term) arrange(ctx context.Context, s *store, r *reading) (*batch, error) {
	switch {
	case r.err != nil:
		return nil, t.timedOut(ctx, r.err)
	case len(r.cursors) > 0 && r.cursors[0].Assigned:
		return nil, errAssigned
	case len(r.cursors) > 0 && r.cursors[0].Incarnation == "":
		return nil, t.store.incarnate(ctx, t.store) // and read again
	}
	for _, c := range r.cursors {
		if c.Token != t.tokens[c.Partition] {
			delete(t.sent, c.Partition)
		}
	}
	b := t.newBatch(r.cursors, r.rows, r.limit, batchBytes>>t.shrunk)
	if len(b.large) > 0 {
		if err := s.payloads(ctx, b.large); err != nil {
			return nil, t.timedOut(ctx, err)
		}
	}
	if t.calm++; t.calm > 16 {
		t.shrunk, t.calm = max(0, t.shrunk-1), 0
	}
	return b, nil
}

// pass reads, publishes and moves once for each of the relay's partitions, and returns how many rows there were.
func (t *term) pass(ctx context.Context) (rows int, err error) {
	limit := t.limit()
	if err := t.noteLimit(ctx, limit); err != nil {
		return 0, err
	}
	turns := t.turns()
	for i, partitions := range turns {
		if t.ahead == nil || !slices.Equal(t.ahead.partitions, partitions) {
			t.forget()
			t.ahead = t.startReading(ctx, partitions, limit)
		}
		now := t.ahead
		t.forget()
		if len(turns) > 1 {
			t.ahead = t.startReading(ctx, turns[(i+1)%len(turns)], limit)
		}
		n, err := t.publishBatch(ctx, now)
		if rows += n; err != nil || len(turns) > 1 && !t.busy() {
			t.forget()
			return rows, err
		}
	}
	if t.full = 2*rows >= t.cfg.BatchSize; !t.full {
		t.forget()
	}
	return rows, nil
}

// publishBatch publishes what was read, and moves the cursors.
func (t *term) publishBatch(ctx context.Context, now *reading) (rows int, err error) {
	defer func() { t.spare = append(t.spare, now.rows) }()
	start := time.Now()
	b, err := t.arrange(ctx, t.store, now)
	if b == nil || err != nil {
		return 1, err
	}
	if len(now.partitions) == t.partitions {
		t.mine = t.mine[:0:0]
		for _, c := range b.cursors {
			t.mine = append(t.mine, c.Partition)
		}
	}
	t.look(b)
	if len(b.cursors) == 0 {
		return 0, nil
	}
	p := t.publishRows(ctx, b.rows)
	if p.taken < len(b.rows) || len(t.doubt) > 0 {
		t.conclude(p, b)
	}
	if err := t.moveBatch(b, ctx.Err() != nil); err != nil {
		return 0, err
	}
	if len(p.open) > 0 {
		t.report(ctx, p)
	}
	if len(b.rows) > 0 && t.log.Enabled(ctx, slog.LevelDebug) {
		t.log.DebugContext(ctx, "outbox relay: batch", "events", len(b.rows), "tried", p.tried, "published", p.taken, "took", time.Since(start))
	}
	return len(b.rows), nil
}

// look takes from a reading what the next steps go by, and leaves the partitions that need care to them.
func (t *term) look(b *batch) {
	t.active, t.placing, t.careful, t.blocked = 0, false, false, false
	for _, c := range b.cursors {
		t.uneven = t.uneven || c.Relays != t.relays
		t.placing = t.placing || c.Placements > 0
		t.careful = t.careful || c.Careful > 0
		t.waiting = t.waiting || c.Waiting
		t.blocked = t.blocked || c.Blocked
		if len(b.parts[c.Partition]) > 0 {
			t.active++
		}
	}
	if t.careful || t.placing {
		away := func(p int) bool {
			return slices.ContainsFunc(b.cursors, func(c cursor) bool { return c.Partition == p && (c.Careful > 0 || c.Placements > 0) })
		}
		b.rows = slices.DeleteFunc(b.rows, func(r *row) bool { return away(r.partition) })
		b.cursors = slices.DeleteFunc(slices.Clone(b.cursors), func(c cursor) bool { return away(c.Partition) })
	}
}
