package relay

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"time"

	"github.com/endstate-go/endstate/internal/sqltx"
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
	events       []outbox.Event // memory of a call's events
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
	tokens    map[int]string         // by partition, the cursor's when that was so: with another one, a replay has set it back
}

func newTerm(r *Relay, l *lease) *term {
	t := &term{Relay: r, lease: l, log: r.log.With("lease", l.id), address: r.destination(), partitions: outbox.Partitions, noted: r.cfg.BatchSize,
		doubt: map[int64]int{}, sent: map[int]map[int64]bool{}, tokens: map[int]string{}, gauge: gauge{low: r.cfg.minOutage, high: r.cfg.maxOutage}}
	if o, ok := r.publisher.(outbox.Ordered); ok {
		t.ordered = o.KeepsOrder()
	}
	for p := range t.partitions {
		t.every = append(t.every, p)
	}
	return t
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
		n, err := t.store.gone(ctx, t.lease.id)
		if n > 0 {
			t.log.ErrorContext(ctx, "outbox relay: events are gone from the outbox that were to be published: somebody has deleted them", "events", n)
		}
		if err == nil {
			err = t.store.free(ctx, t.lease.id)
		}
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

// read reads a batch. One that times out is tried smaller, until it is one event of one partition: then there is no batch, and no
// error.
func (t *term) read(ctx context.Context, s *store, partitions []int, limit int) (*batch, error) {
	r := reading{partitions: partitions, limit: limit}
	r.cursors, r.rows, r.err = s.read(ctx, t.lease.id, partitions, limit, nil)
	return t.arrange(ctx, s, &r)
}

// timedOut has the next reading be smaller if this one timed out: then there is no error.
func (t *term) timedOut(ctx context.Context, err error) error {
	late := sqltx.State(err) == sqltx.QueryCanceled || errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil
	if !late || t.shrunk >= maxShrunk {
		return fmt.Errorf("read events: %w", err)
	}
	t.shrunk, t.calm = t.shrunk+1, 0
	t.log.DebugContext(ctx, "outbox relay: a reading timed out, trying a smaller one", "error", err)
	return nil
}

const maxShrunk = 14
