package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"time"

	"github.com/endstate-go/endstate/internal/sleep"
)

// term is a relay at work under one lease. All of it runs on one goroutine, so that shards change hands only between
// batches.
type term struct {
	*Relay
	lease *lease
	log   *slog.Logger

	balanced   time.Time
	owned      int  // shards
	suspects   bool // some shards' events were in flight when a relay died
	waiting    bool // there may be failed events
	nextDue    time.Time
	taken      bool          // shards were taken in which an event may wait behind one that is no longer there
	from       int           // the shard to begin the next reading with
	limit      int           // events a reading, lower while they are large
	publishing time.Duration // how long a batch takes the publisher, lately
	deeper     int           // how often to double what one shard may have of a reading
	position   position
	span       int64 // over how many numbers a batch goes that is read from the position: seq has gaps

	recovering int // how deep to read behind failed events, as a power of two: they mostly fail again

	// While the broker takes nothing, the ready events are left in peace but for some now and then.
	outage     int
	pauseUntil time.Time
}

const (
	probe     = 10 // events, the first time after the broker took none; then twice as many each time
	minOutage = 100 * time.Millisecond
	maxOutage = 5 * time.Second
)

// work publishes until run ends or the lease is lost.
func (t *term) work(run context.Context) {
	ctx, cancel := context.WithCancel(run) // of everything but publishing and marking, which a shutdown lets finish
	defer cancel()
	defer context.AfterFunc(t.lease.ctx, cancel)()
	poll, failures := t.cfg.firstPoll, 0
	for ctx.Err() == nil {
		n, err := t.round(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			t.position.rewind() // who knows what was done, and by which server
			failures++
			wait := backoff(minOutage, maxOutage, failures)
			t.reconnecting(ctx, err, wait)
			_ = sleep.For(ctx, wait)
		case n > 0:
			poll, failures = t.cfg.firstPoll, 0
		case t.wait(ctx, t.idle(poll)):
			poll, failures = t.cfg.firstPoll, 0
		default:
			poll, failures = min(poll*3/2, t.cfg.PollInterval), 0
		}
	}
}

// balancing is how often the relay looks at how the shards are spread.
func (t *term) balancing() time.Duration { return min(t.cfg.LeaseTTL/5, t.cfg.balanceEvery) }

// idle is how long to wait for something to do.
func (t *term) idle(poll time.Duration) time.Duration {
	wait := min(poll, time.Until(t.balanced.Add(t.balancing())))
	if t.waiting {
		wait = min(wait, time.Until(t.nextDue))
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

// round shares the shards if it is time, reads and publishes one batch of each kind that there is, and returns how many
// events they had.
func (t *term) round(ctx context.Context) (events int, err error) {
	if time.Since(t.balanced) >= t.balancing() {
		if err := t.balance(ctx); err != nil {
			return 0, fmt.Errorf("share the shards: %w", err)
		}
		t.balanced = time.Now()
	}
	if t.suspects {
		n, err := t.batches(ctx, suspect, suspectDue)
		events += n
		if err != nil {
			return events, err
		}
		if n == 0 {
			t.position.rewind()
			if err := t.store.trust(ctx, t.lease.epoch); err != nil {
				return events, fmt.Errorf("trust the shards: %w", err)
			}
			t.suspects = false
		}
	}
	if !time.Now().Before(t.pauseUntil) {
		n, err := t.batches(ctx, ready)
		events += n
		if err != nil {
			return events, err
		}
	}
	if t.waiting && !time.Now().Before(t.nextDue) {
		n, err := t.batches(ctx, due, alone)
		events += n
		if err != nil || n > 0 {
			return events, err
		}
		wait, any, err := t.store.nextDue(ctx, t.lease.epoch)
		if err != nil {
			return events, fmt.Errorf("look for the next failed event: %w", err)
		}
		t.waiting, t.nextDue = any, time.Now().Add(wait)
	}
	return events, nil
}

// batches publishes a batch of each lane.
func (t *term) batches(ctx context.Context, lanes ...lane) (events int, err error) {
	for _, l := range lanes {
		n, err := t.batch(ctx, l)
		events += n
		if err != nil {
			return events, err
		}
	}
	return events, nil
}

// reading says what to read in a lane.
func (t *term) reading(l lane) reading {
	q := reading{lane: l, limit: t.limit, from: t.from, ordered: t.waiting && !t.cfg.Unordered}
	switch l {
	case ready:
		if t.outage > 0 {
			// More each time: it may be no outage, but many aggregates that fail in front of others that don't.
			q.limit = min(q.limit, probe<<min(t.outage-1, 16))
		}
		t.aim(&q)
	case due:
		q.perTurn = min(q.limit, 1<<t.recovering)
	default:
		q.limit, q.perTurn = 1, 1
	}
	return q
}

// aim says where a reading of ready events shall look: a little in each shard, or, in a backlog, for what comes next in all of
// them. What was written together lies together, in the table and in its indexes, which makes marks cheaper by a third. But with
// a slow publisher, or one aggregate that has many events, each shard shall have its turn.
func (t *term) aim(q *reading) {
	t.position.expire()
	share := max(t.owned, 1)
	turns := func(events int) int { return min(q.limit, 1<<min(bits.Len(uint((events-1)/share))+t.deeper, 20)) }
	switch {
	case t.db.sqlite():
	case t.outage == 0 && t.publishing < maxPublishing && t.position.follows():
		least := int64(q.limit * Shards / share)
		q.lane, q.after, q.until = next, t.position.begin, max(t.position.seen, t.position.reach+min(max(t.span, least), 64*least))
	case t.outage > 0 || t.position.ahead():
		// Each reading passes over what was published since the start. Reading deep into few shards, it does so less often. But
		// each shard shall have its turn about once a second, however slow the publisher is.
		q.perTurn = turns(q.limit * max(1, int(time.Second/max(t.publishing, 5*time.Millisecond))))
	default:
		q.perTurn = turns(q.limit)
	}
}

// maxPublishing is how long a batch may take the publisher for the next one to be what comes next.
const maxPublishing = 100 * time.Millisecond

// batch reads, publishes and marks one batch of a lane, and returns how many events it had.
func (t *term) batch(ctx context.Context, l lane) (int, error) {
	start := time.Now()
	q := t.reading(l)
	rows, err := t.store.read(ctx, t.lease.epoch, q)
	if err != nil {
		return 0, fmt.Errorf("read events: %w", err)
	}
	if len(rows) == 0 && q.lane == next {
		t.position.rewind()
		return t.batch(ctx, l)
	}
	if len(rows) == 0 {
		return 0, nil
	}
	read := time.Now()
	o, tried := t.publishRows(rows, l)
	published := time.Now()
	if err := t.mark(o); err != nil {
		return 0, err
	}
	switch l {
	case ready:
		t.from = (rows[len(rows)-1].shard + 1) % Shards
		t.publishing = (3*t.publishing + published.Sub(read)) / 4
		t.follow(rows, q, read.Sub(start), o.events() == len(rows))
		t.pace(o, tried)
	case due:
		t.recovering = min(t.recovering+3, 30)
		if len(o.published) == 0 {
			t.recovering = 0
		}
	}
	t.fit(rows)
	if t.log.Enabled(ctx, slog.LevelDebug) {
		t.log.DebugContext(ctx, "outbox relay: batch", "events", len(rows), "published", len(o.published), "failed", len(o.failed), "held", len(o.held), "took", time.Since(start))
	}
	return len(rows), nil
}

// follow has the next reading go on behind this one, unless there is nothing more, or something was left over.
func (t *term) follow(rows []row, q reading, took time.Duration, all bool) {
	last := rows[len(rows)-1]
	if q.lane == next {
		t.span = max(1, last.seq-t.position.reach) * int64(q.limit) / int64(len(rows)) // as far as a batch goes
		if all && t.position.ahead() && len(rows) >= q.limit/4 {
			t.position.advance(rows, len(rows) < q.limit && !last.cut)
		} else {
			t.position.rewind()
		}
		return
	}
	reach, seen, more := t.deepen(rows, q)
	switch {
	case !all || !more:
		t.span = 0
		t.position.rewind()
	case !t.position.ahead():
		t.position.start(reach, seen, took)
	}
}

// deepen lets the next reading take more of each shard when this one could have had more, and only few shards have any. It
// returns whether there may be more, the lowest seq behind which it may be, and the highest one that was read.
func (t *term) deepen(rows []row, q reading) (reach, seen int64, more bool) {
	cut, run := false, 0
	for i := range rows {
		if run++; i > 0 && rows[i].shard != rows[i-1].shard {
			run = 1
		}
		seq := rows[i].seq
		seen = max(seen, seq)
		if run == q.perTurn && (!cut || seq < reach) {
			cut, reach = true, seq
		}
	}
	if !cut {
		reach = seen
	}
	if cut && len(rows) < q.limit {
		t.deeper = min(t.deeper+1, 16)
	} else {
		t.deeper = max(t.deeper-1, 0)
	}
	return reach, seen, cut || len(rows) >= q.limit
}

// fit keeps what one reading brings within the memory that it may take.
func (t *term) fit(rows []row) {
	size := 0
	for i := range rows {
		size += len(rows[i].Payload)
	}
	fits := batchBytes / max(1, size/len(rows))
	if t.limit = t.cfg.BatchSize; fits < t.limit {
		t.limit = 1 << (bits.Len(uint(max(fits, 1))) - 1) // a power of two: few different numbers, and so few different statements
	}
}

// pace leaves a broker that takes nothing in peace. One aggregate alone doesn't tell, and a broker that refuses an event for
// good is there.
func (t *term) pace(o *outcome, tried int) {
	if len(o.published) > 0 || slices.ContainsFunc(o.failed, func(f failure) bool { return f.Dead }) {
		t.outage, t.pauseUntil = 0, time.Time{}
		return
	}
	if tried > 1 || t.outage > 0 && tried > 0 {
		t.outage++
		t.pauseUntil = time.Now().Add(backoff(minOutage, maxOutage, t.outage))
	}
}

// mark writes down what became of a batch. It doesn't give up before the lease is lost: until then nobody else knows.
func (t *term) mark(o *outcome) error {
	if len(o.failed)+len(o.held) > 0 {
		t.waiting = true
		t.nextDue = time.Now()
	}
	for attempt := 1; ; attempt++ {
		// Not the lease's context: what was published is marked also after a shutdown has taken too long. The epoch fences it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.lease.ctx), t.cfg.LeaseTTL/2)
		alive, err := t.store.mark(ctx, t.lease.epoch, o)
		cancel()
		if err == nil && alive {
			return nil
		}
		if err == nil {
			t.log.WarnContext(t.lease.ctx, "outbox relay: marks refused, the lease is another's; the events are published again", "events", len(o.published))
			t.lease.cancel(errLeaseLost)
			return errLeaseLost
		}
		if t.lease.lost() {
			return fmt.Errorf("mark events: %w", err)
		}
		t.position.rewind()
		wait := backoff(minOutage, maxOutage, attempt)
		t.reconnecting(t.lease.ctx, fmt.Errorf("mark events: %w", err), wait)
		_ = sleep.For(t.lease.ctx, wait)
	}
}
