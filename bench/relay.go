package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

const (
	drainEvents = 300_000
	slowEvents  = 60_000 // relays that start together have their shares after a second
)

// relays are the cases of publishing what is in the outbox. The time ends with the last event's publication. All keep the history.
func (b *bencher) relays(r *riverPeer) []bcase {
	cases := []bcase{
		{name: "relay-vs-by-hand", peer: "mark and select in one trip, 1,000 at a time", must: 4, ours: b.drain(), theirs: b.drainByHand},
		{name: "relay-vs-river", peer: "River, a worker that does nothing, 2,000 goroutines", must: 10, ours: b.drain(), theirs: r.drain(drainEvents)},
		{name: "relay-vs-watermill", peer: "Watermill's SQL subscriber, 500 at a time", must: 5, ours: b.drain(), theirs: b.watermillDrain(drainEvents)},
	}
	cases = append(cases, bcase{name: "relay-vs-bare-select", peer: "SELECT of the same columns, 1,000 at a time, of which nothing is made", ours: b.drain(), theirs: b.bareSelect})
	if !b.quick {
		slow := func(relays int) way { return b.drainBy(relays, slowEvents, 100, 5*time.Millisecond) }
		cases = append(append(cases, b.snapshots(r)...),
			bcase{name: "two-relays-vs-one", peer: "one relay, a publisher that takes 5 ms for 100 events", must: 1.7, ours: slow(2), theirs: slow(1)},
			bcase{name: "four-relays-vs-one", peer: "one relay, a publisher that takes 5 ms for 100 events", must: 3, ours: slow(4), theirs: slow(1)})
	}
	for i := range cases {
		cases[i].long = true
	}
	return cases
}

// fill makes an outbox of pending events, whose ids grow as those of version 7 do. What is published stays in one that is kept.
func (b *bencher) fill(ctx context.Context, n int) error {
	b.room = 0 // the cases after this begin anew
	statements := []string{b.events("endstate_outbox", b.filled, n), "VACUUM (FREEZE, ANALYZE) endstate_outbox", "CHECKPOINT"}
	if b.keep {
		b.filled += n
	} else {
		statements = append([]string{"TRUNCATE endstate_outbox"}, statements...)
	}
	return b.all(ctx, statements...)
}

func (w *world) all(ctx context.Context, statements ...string) error {
	for _, statement := range statements {
		if _, err := w.pool.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// events inserts n events, after so many others, of aggregates whose ids are negative: those of the other cases aren't.
func (w *world) events(table string, after, n int) string {
	return fmt.Sprintf(`INSERT INTO `+table+` %s
SELECT ('018f0000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'batch', '-' || n, '%[2]s', '%[3]s', 'application/json', '%[7]s', clock_timestamp(), 'batch/i:-' || n || '#%[2]s',
	get_byte(sha256(convert_to('batch/-' || n, 'UTF8')), 0) %% %[4]d, 1
FROM generate_series(%[5]d, %[6]d) n`, eventColumns, eventType, payload(), outbox.Partitions, after+1, after+n, headers)
}

// drain publishes events with one relay, whose publisher does nothing.
func (b *bencher) drain() way { return b.drainBy(1, drainEvents, 0, 0) }

// drainBy publishes n events with a number of relays, so many at a time, which take their publisher a while.
func (b *bencher) drainBy(relays, n, size int, takes time.Duration) way {
	return func(ctx context.Context) (sample, error) {
		if err := b.fill(ctx, n); err != nil {
			return sample{}, err
		}
		count := newCounter(n)
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		var group sync.WaitGroup
		ended := make(chan error, relays)
		s, err := b.sample(ctx, func() (float64, error) {
			for range relays {
				rel, err := relay.New(b.wide, taker{count, takes}, &relay.Config{Subscription: b.subscription, BatchSize: size, Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					return 0, err
				}
				group.Go(func() {
					ended <- rel.Run(ctx)
					count.end()
				})
			}
			return float64(n), count.wait(ctx)
		})
		stop()
		group.Wait()
		close(ended)
		for e := range ended {
			err = errors.Join(err, e)
		}
		return s, err
	}
}

// taker is a Publisher that takes everything, after a while.
type taker struct {
	*counter
	takes time.Duration
}

func (t taker) Publish(_ context.Context, batch []outbox.Event) []error {
	time.Sleep(t.takes)
	t.add(len(batch))
	return nil
}
