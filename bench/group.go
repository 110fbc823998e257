package main

import (
	"context"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// groups are the cases of many aggregates at a time.
func (b *bencher) groups() []bcase {
	const many = 1000
	with := func(workers int) load { return b.open(workers, 150_000) }
	thousand := with(1)
	thousand.keys = many
	return []bcase{
		{name: "group64-vs-one-statement", peer: "one statement by hand for each of 64 callers, 8 connections", must: 4.5,
			ours: b.each(with(64), b.settle(b.status, true)), theirs: b.each(with(64), b.handStatusStatement)},
		{name: "group256-vs-one-statement", peer: "one statement by hand for each of 256 callers, 64 connections", must: 6.5,
			ours: b.each(with(256), b.settle(b.status, true)), theirs: b.each(with(256), b.handOnManyConnections)},
		{name: "group1-vs-one-statement", peer: "one statement by hand, one caller", must: 1,
			ours: b.each(with(1), b.settle(b.status, true)), theirs: b.each(with(1), b.handStatusStatement)},
		{name: "many-vs-unnest", peer: "one statement by hand for 1,000 aggregates", must: 0.95,
			ours: b.each(thousand, b.settleMany(many)), theirs: b.each(thousand, b.handUnnest(many))},
	}
}

func (b *bencher) settleMany(size int64) one {
	return func(ctx context.Context, n int64) error {
		items := make([]finalize.Item, size)
		for i := range items {
			items[i] = finalize.Item{Key: guard.Int(b.id((n-1)*size + int64(i) + 1)), Outcome: outcome()}
		}
		results, err := b.status.SettleMany(ctx, "bench", items)
		for _, r := range results {
			if err == nil && !r.Receipt.Won {
				return errLost
			}
		}
		return err
	}
}
