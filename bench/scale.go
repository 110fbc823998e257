package main

import (
	"context"
	"fmt"
)

// scale are the cases of a database with many finalized keys, and half as many published events, against one with none.
func (b *bencher) scale(ctx context.Context, finalized int) ([]bcase, error) {
	url, err := b.newDatabase(ctx, "grown")
	if err != nil {
		return nil, err
	}
	full, err := newWorld(ctx, url)
	if err != nil {
		return nil, err
	}
	for _, statement := range []string{
		fmt.Sprintf("INSERT INTO batches SELECT -n, '%s' FROM generate_series(1, %d) n", state, finalized),
		fmt.Sprintf("INSERT INTO endstate_ledger SELECT 'batch', 'i:' || -n, '%s', 'bench', gen_random_uuid(), NULL, now() FROM generate_series(1, %d) n", state, finalized),
		full.events("endstate_outbox", 0, finalized/2),
		"VACUUM ANALYZE batches, endstate_ledger, endstate_outbox",
		"CHECKPOINT",
	} {
		if _, err := full.pool.Exec(ctx, statement); err != nil {
			return nil, err
		}
	}
	full.keep, full.filled = true, finalized/2
	onFull := &bencher{world: full, slice: b.slice, rounds: b.rounds}
	eight := b.eight()
	// The relay comes first: the others leave their events behind.
	cases := []bcase{{name: "relay-full-vs-empty", peer: "the same on an empty outbox", must: 0.85, long: true,
		ours: onFull.drain(), theirs: b.drain()}}
	for _, name := range []string{byStatus, byLedger, byBoth} {
		cases = append(cases,
			bcase{name: name + "/settle-full-vs-empty", peer: "the same on an empty database", must: 0.85,
				ours: onFull.each(eight, onFull.settle(full.alone[name], true)), theirs: b.each(eight, b.settle(b.alone[name], true))},
			bcase{name: name + "/do-full-vs-empty", peer: "the same on an empty database", must: 0.85,
				ours: onFull.each(eight, onFull.do(full.alone[name], true)), theirs: b.each(eight, b.do(b.alone[name], true))})
	}
	return cases, nil
}
