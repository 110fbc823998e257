package main

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// groups are the cases of many aggregates at a time.
func (b *bencher) groups() []bcase {
	const many = 1000
	with := func(workers int) load { return b.open(workers, 150_000) }
	thousand := with(1)
	thousand.keys = many
	return []bcase{
		{name: "group64-vs-one-statement", peer: "one statement by hand for each of 64 callers, 8 connections", must: 3.0,
			ours: b.each(with(64), b.settle(b.status, true)), theirs: b.each(with(64), b.handStatusStatement)},
		{name: "group256-vs-one-statement", peer: "one statement by hand for each of 256 callers, 64 connections", must: 4.5,
			ours: b.each(with(256), b.settle(b.status, true)), theirs: b.each(with(256), b.handOnManyConnections)},
		{name: "group1-vs-one-statement", peer: "one statement by hand, one caller", must: 0.95,
			ours: b.each(with(1), b.settle(b.status, true)), theirs: b.each(with(1), b.handStatusStatement)},
		{name: "many-vs-unnest", peer: "one statement by hand for 1,000 aggregates", must: 0.85,
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

func (b *bencher) handUnnest(size int64) one {
	return func(ctx context.Context, n int64) error {
		keys, ids, dedup := make([]int64, size), make([]string, size), make([]string, size)
		payloads, partitions := make([][]byte, size), make([]int16, size)
		for i := range keys {
			id, err := uuid.NewV7()
			if err != nil {
				return err
			}
			keys[i], ids[i], payloads[i] = b.id((n-1)*size+int64(i)+1), id.String(), payload()
			text := fmt.Sprint(keys[i])
			dedup[i], partitions[i] = "batch/i:"+text+"#"+eventType, int16(outbox.Partition("batch", text))
		}
		tag, err := b.pool.Exec(ctx, `WITH e AS (SELECT * FROM unnest($2::int8[], $3::text[], $4::bytea[], $5::text[], $6::int2[]) AS e (key, id, payload, dedup_key, partition)),
won AS (UPDATE batches SET status = $1 FROM e WHERE batches.id = e.key AND `+open+` RETURNING batches.id)
INSERT INTO endstate_outbox `+eventColumns+`
SELECT e.id::uuid, 'batch', e.key::text, $7, e.payload, 'application/json', $8, clock_timestamp(), e.dedup_key, e.partition, 1
FROM won JOIN e ON e.key = won.id`, state, keys, ids, payloads, dedup, partitions, eventType, headers)
		if err == nil && tag.RowsAffected() != size {
			return errLost
		}
		return err
	}
}
