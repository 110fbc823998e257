package main

import (
	"context"
	"fmt"
)

// scale are the cases of a database with many finalized keys against one with none.
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
		"VACUUM ANALYZE batches, endstate_ledger",
		"CHECKPOINT",
	} {
		if _, err := full.pool.Exec(ctx, statement); err != nil {
			return nil, err
		}
	}
	full.keep = true
	onFull := &bencher{world: full, slice: b.slice, rounds: b.rounds}
	eight := b.eight()
	var cases []bcase
	for _, name := range []string{byStatus, byLedger, byBoth} {
		cases = append(cases,
			bcase{name: name + "/settle-full-vs-empty", peer: "the same on an empty database", must: 0.85,
				ours: onFull.each(eight, onFull.settle(full.alone[name], true)), theirs: b.each(eight, b.settle(b.alone[name], true))},
			bcase{name: name + "/do-full-vs-empty", peer: "the same on an empty database", must: 0.85,
				ours: onFull.each(eight, onFull.do(full.alone[name], true)), theirs: b.each(eight, b.do(b.alone[name], true))})
	}
	return cases, nil
}
