package relay

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"time"

	"github.com/endstate-go/endstate/outbox"
)

// term is a relay at work under one lease. All of it runs on one goroutine, but for a reading of partitions with which nothing
// else is done meanwhile. So partitions change hands only between batches, and no reading is ahead of its partitions' last move.
type term struct {
	*Relay
	lease      *lease
	log        *slog.Logger
	ordered    bool   // the publisher keeps the order of a batch
	address    string // where it publishes
	partitions int
	every      []int

	balanced, sampled, sequenceChecked, freed time.Time
	owned, relays                             int  // partitions, and relays that share them
	uneven                                    bool // it has more or less than its share
	hurried                                   int  // how often in a row it looked at that
	placing, careful, blocked                 bool
	waiting                                   bool // there may be parked events
	nextDue                                   time.Time
	recovering                                int // how deep to read behind parked events, as a power of two: they mostly fail again

	active       int // partitions that the last reading brought something of
	noted        int // how many rows of a partition a reading may have, as the cursors have it
	shrunk, calm int // by how many halves readings are smaller than they may be, and how many went well since
	from         int // the partition to begin the next one with
	mine         []int
	full         bool           // the last reading brought about a batch
	ahead        *reading       // of partitions whose last move is done
	spare        [][]row        // memory to read into
	events       []outbox.Event // memory of a call\'s events
	seen         map[uint64]int // of aggregates, by their hash
	seed         maphash.Seed

	gauge     gauge
	conflicts int // transactions of a consumer in a row that a concurrent one broke off
	cuts      int // how often the handler of the event cutBy lost its connection
	cutBy     int64
	wary      bool                   // a connection was lost by whichever handler: who it is, is found out
	back      bool                   // the last one would have handled something, after others had failed in an outage
	doubt     map[int64]int          // how often events were refused, and nobody knows why
	sent      map[int]map[int64]bool // by partition, what is published and beyond the cursor, since earlier events are open
}

func newTerm(r *Relay, l *lease) *term {
	t := &term{Relay: r, lease: l, log: r.log.With("lease", l.id), address: r.destination(), partitions: outbox.Partitions, noted: r.cfg.BatchSize,
		doubt: map[int64]int{}, sent: map[int]map[int64]bool{}, gauge: gauge{low: r.cfg.minOutage, high: r.cfg.maxOutage}}
	if o, ok := r.publisher.(outbox.Ordered); ok {
		t.ordered = o.KeepsOrder()
	}
	for p := range t.partitions {
		t.every = append(t.every, p)
	}
	return t
}

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

// housekeep is what is done now and then.
func (t *term) housekeep(ctx context.Context) error {
	if t.balanced.IsZero() {
		age, err := t.store.lastSample(ctx)
		if err != nil {
			return fmt.Errorf("look when something was published: %w", err)
		}
		t.gauge.taken = time.Now().Add(-age)
	}
	if err := t.balance(ctx); err != nil {
		return fmt.Errorf("share the partitions: %w", err)
	}
	if time.Since(t.sampled) >= t.cfg.sampleEvery {
		if err := t.store.sample(ctx, t.lease.id); err != nil {
			return fmt.Errorf("note the cursors' way: %w", err)
		}
		t.sampled = time.Now()
	}
	if t.waiting && time.Since(t.freed) > freeEvery {
		start := time.Now()
		err := t.store.free(ctx, t.lease.id)
		if t.freed = time.Now().Add(20 * time.Since(start)); err != nil {
			return fmt.Errorf("look for stranded events: %w", err)
		}
	}
	t.balanced = time.Now()
	return nil
}

const freeEvery = 10 * time.Second

// leave parks what is open before events that are published, so that who goes on from here doesn't publish those again.
func (t *term) leave() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.lease.ctx), t.cfg.LeaseTTL/2)
	defer cancel()
	t.forget()
	if t.gauge.failures == 0 {
		_ = t.store.sample(ctx, t.lease.id) // the next relay may know that the destination is there
	}
	if len(t.sent) == 0 {
		return
	}
	b, err := t.read(ctx, t.store, t.every, min(t.limit(), t.noted))
	if err == nil && b != nil {
		t.look(b)
		err = t.moveBatch(b, true)
	}
	if err != nil {
		t.log.WarnContext(ctx, "outbox relay: some events are published again", "error", err)
	}
}
