package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/endstate-go/endstate/outbox/relay"
)

// mostEvents is how many published events are in the outbox that has grown, at most. Retention bounds that, and nothing the ledger.
const mostEvents = 10_000_000

// scale are the cases of a database with many finalized keys, in the table of the status and in the ledger, and of published
// events, against one with none. Losers ask for all of them in turn, all over the tables.
func (b *bencher) scale(ctx context.Context, o options) ([]bcase, error) {
	full, err := b.grown(ctx, o.full)
	if err != nil {
		return nil, err
	}
	onFull := &bencher{world: full, slice: b.slice, rounds: b.rounds}
	eight, final := b.eight(), load{workers: connections, rows: finalRows, final: true}
	// The relay comes first: the others leave their events behind.
	size := fmt.Sprintf("full-%d/", o.full)
	cases := []bcase{{name: size + "relay-vs-empty", peer: "the same on an empty outbox", must: 0.8, long: true,
		ours: onFull.drain(), theirs: b.drain()}}
	const peer = "the same on an empty database"
	for _, name := range []string{byStatus, byLedger, byBoth} {
		onlyFull, empty := full.alone[name], b.alone[name]
		cases = append(cases,
			bcase{name: size + name + "-settle-vs-empty", peer: peer, must: 0.9,
				ours: onFull.each(eight, onFull.settle(onlyFull, true)), theirs: b.each(eight, b.settle(empty, true))},
			bcase{name: size + name + "-do-vs-empty", peer: peer, must: 0.9,
				ours: onFull.each(eight, onFull.do(onlyFull, true)), theirs: b.each(eight, b.do(empty, true))},
			bcase{name: size + name + "-loser-vs-empty", peer: peer, must: 0.9,
				ours: onFull.each(final, onFull.old(o.full, onFull.settle(onlyFull, false))), theirs: b.each(final, b.settle(empty, false))})
	}
	return append(cases, bcase{name: size + "select-vs-empty", peer: "an indexed SELECT by hand, on both",
		ours: onFull.each(final, onFull.old(o.full, onFull.handSelect)), theirs: b.each(final, b.handSelect)}), nil
}

// old does an operation on the aggregates that were there before the run, whose ids are negative, in an order that has nothing
// to do with theirs.
func (b *bencher) old(rows int, do one) one {
	const prime = 15_485_863
	var turn atomic.Int64 // of all that a slice asks for
	return func(ctx context.Context, n int64) error {
		if n == 1 {
			turn.Add(1)
		}
		aggregate := (n + turn.Load()*finalRows) % int64(rows) * prime % int64(rows)
		return do(ctx, -aggregate-1-b.base)
	}
}

// grown makes a database of so many finalized keys, or finds it on a server that was used before.
func (b *bencher) grown(ctx context.Context, finalized int) (*world, error) {
	url, there, err := b.database(ctx, fmt.Sprintf("grown_%d", finalized))
	if err != nil {
		return nil, err
	}
	full, err := newWorld(ctx, url)
	if err != nil {
		return nil, err
	}
	full.keep = true
	if !there {
		full.filled = min(finalized, mostEvents)
		// An index is made faster than kept.
		err = full.all(ctx,
			"ALTER TABLE batches DROP CONSTRAINT batches_pkey",
			fmt.Sprintf("INSERT INTO batches SELECT -n, '%s' FROM generate_series(1, %d) n", state, finalized),
			"ALTER TABLE batches ADD PRIMARY KEY (id)",
			"ALTER TABLE endstate_ledger DROP CONSTRAINT endstate_ledger_pkey",
			fmt.Sprintf("INSERT INTO endstate_ledger SELECT 'batch', 'i:' || -n, '%s', 'bench', gen_random_uuid(), NULL, now() FROM generate_series(1, %d) n", state, finalized),
			"ALTER TABLE endstate_ledger ADD PRIMARY KEY (aggregate, key)",
			full.events("endstate_outbox", 0, full.filled),
			"VACUUM (FREEZE, ANALYZE) batches", "VACUUM (FREEZE, ANALYZE) endstate_ledger", "VACUUM (FREEZE, ANALYZE) endstate_outbox",
			"CHECKPOINT")
	} else if err = full.pool.QueryRow(ctx, "SELECT greatest(max(id), 0) FROM batches").Scan(&full.used); err == nil {
		err = full.pool.QueryRow(ctx, "SELECT max(-aggregate_id::int8) FROM endstate_outbox").Scan(&full.filled)
	}
	if err != nil {
		return nil, err
	}
	// What is in the outbox counts as published.
	full.subscription = fmt.Sprint("bench", time.Now().Unix())
	return full, full.subscribe(ctx)
}

// subscribe makes the subscription, which begins at the outbox's end, and has found it in each partition.
func (w *world) subscribe(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	r, err := relay.New(w.pool, taker{newCounter(1), 0}, &relay.Config{Subscription: w.subscription, Start: relay.End, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	for made := false; !made; {
		if err := w.pool.QueryRow(ctx, "SELECT coalesce(bool_and(placements = 0), false) FROM endstate_outbox_cursors WHERE subscription = $1", w.subscription).Scan(&made); err != nil {
			return err
		}
		select {
		case err := <-ended:
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
	stop()
	return <-ended
}
