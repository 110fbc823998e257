package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// batch is what one reading brought, by its snapshot.
type batch struct {
	cursors []cursor
	rows    []*row // in the order of seq
	parts   [outbox.Partitions][]*row
	pieces  [outbox.Partitions]bool // partitions with more late rows than these: nothing fresh goes before the last of them
}

func bySeq(a, b *row) int { return cmp.Compare(a.seq, b.seq) }

// batchBytes bounds what a relay holds in memory of one batch.
const batchBytes = 8 << 20

// newBatch puts a reading in order: an aggregate's events by seq, no more of them than memory shall hold, late ones first.
func (t *term) newBatch(cursors []cursor, rows []row, limit, budget int) *batch {
	b := &batch{cursors: cursors, rows: make([]*row, 0, len(rows))}
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
		b.parts[r.partition] = append(b.parts[r.partition], r)
	}
	return b
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
	if err := t.store.noteBatch(ctx, t.lease.id, limit); err != nil {
		return err
	}
	t.noted = limit
	return nil
}

// errAssigned says that something wrote before the reading, in its transaction: then its move's id may be older than its snapshot.
var errAssigned = errors.New("relay: the reading's transaction has an id; what wrote in it, a hook of the driver's?")

// reading is one under way.
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
	var into []row
	if n := len(t.spare); n > 0 {
		into, t.spare = t.spare[n-1], t.spare[:n-1]
	}
	go func() {
		defer close(r.done)
		r.cursors, r.rows, r.err = t.store.read(ctx, t.lease.id, partitions, limit, into)
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

// read reads a batch. One that times out is tried smaller, until it is one event of one partition.
func (t *term) read(ctx context.Context, s *store, partitions []int, limit int) (*batch, error) {
	cursors, rows, err := s.read(ctx, t.lease.id, partitions, limit, nil)
	return t.arrange(ctx, s, cursors, rows, err, limit)
}

// arrange makes a batch of what was read.
func (t *term) arrange(ctx context.Context, s *store, cursors []cursor, rows []row, err error, limit int) (*batch, error) {
	if err != nil {
		return nil, t.timedOut(ctx, err)
	}
	if len(cursors) > 0 && cursors[0].Assigned {
		return nil, errAssigned
	}
	if len(cursors) > 0 && !t.db.sqlite() && cursors[0].Incarnation == "" {
		return nil, t.store.incarnate(ctx, t.db) // and read again
	}
	b := t.newBatch(cursors, rows, limit, batchBytes>>t.shrunk)
	if err := s.payloads(ctx, b.rows); err != nil {
		return nil, t.timedOut(ctx, err)
	}
	if t.calm++; t.calm > 16 {
		t.shrunk, t.calm = max(0, t.shrunk-1), 0
	}
	return b, nil
}

// timedOut has the next reading be smaller if this one timed out: then there is no error.
func (t *term) timedOut(ctx context.Context, err error) error {
	if sqltx.State(err) != sqltx.QueryCanceled || t.shrunk >= maxShrunk {
		return fmt.Errorf("read events: %w", err)
	}
	t.shrunk, t.calm = t.shrunk+1, 0
	t.log.DebugContext(ctx, "outbox relay: a reading timed out, trying a smaller one", "error", err)
	return nil
}

const maxShrunk = 14

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
	b, err := t.arrange(ctx, t.store, now.cursors, now.rows, now.err, now.limit)
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
	t.conclude(p, b)
	if err := t.moveBatch(b, ctx.Err() != nil); err != nil {
		return 0, err
	}
	t.report(ctx, p)
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

// conclude sets the states of rows that weren't tried, or whose failure nobody can judge.
func (t *term) conclude(p *tries, b *batch) {
	if p.taken == p.tried && p.tried == len(b.rows) && len(t.doubt) == 0 {
		return // as usual
	}
	names := map[name]bool{}
	for _, r := range b.rows {
		if r.state == todo {
			names[r.aggregate()] = true
		}
	}
	if p.taken == 0 && len(p.open) > 0 && len(names) <= few && t.gauge.isAlone(slices.MinFunc(p.open, bySeq).seq, time.Now(), t.cfg.alone) {
		for _, r := range p.open {
			if t.doubt[r.seq] >= 2 {
				t.blame(p, r, true)
				t.gauge.failures, t.gauge.until, t.gauge.taken = 0, time.Time{}, time.Time{} // which proves no more than that
			}
		}
	}
	doubt := map[int64]int{}
	failing := map[name]bool{}
	for _, r := range b.rows {
		switch {
		case r.state == failed && !t.cfg.Unordered:
			failing[r.aggregate()] = true
		case r.state == todo && failing[r.aggregate()]:
			r.state = held
		case r.state == todo && r.err != nil && !errors.Is(r.err, errPutOff):
			doubt[r.seq] = t.doubt[r.seq] + 1
		}
	}
	t.doubt = doubt
}

// report tells when the destination takes nothing, and keeps it with the cursors, for people.
func (t *term) report(ctx context.Context, p *tries) {
	if t.gauge.failures < 2 && time.Until(t.gauge.until) < time.Second || t.gauge.told || len(p.open) == 0 {
		return
	}
	r := p.open[0]
	t.gauge.told = true
	t.log.WarnContext(ctx, "outbox relay: the destination takes nothing, events wait and no attempts are counted", "event", r.ID, "error", lastError(r.err))
	if f := t.cfg.Trace.Blocked; f != nil {
		f(ctx, r.err)
	}
	if err := t.store.block(ctx, t.lease.id, r.ID.String(), lastError(r.err)); err != nil {
		t.log.WarnContext(ctx, "outbox relay: not written down", "error", err)
	}
}

// recovered has everything that waits be due at once, when an outage is over.
func (t *term) recovered(over bool) {
	if !over && !t.gauge.told && !t.blocked {
		return
	}
	ctx := context.WithoutCancel(t.lease.ctx)
	told := t.gauge.told
	t.gauge.told, t.blocked = false, false
	if err := t.store.unblock(ctx, t.lease.id); err != nil {
		t.log.WarnContext(ctx, "outbox relay: not written down", "error", err)
	}
	t.nextDue = time.Now()
	if told {
		t.log.InfoContext(ctx, "outbox relay: the destination is back")
		if f := t.cfg.Trace.Blocked; f != nil {
			f(ctx, nil)
		}
	}
}
