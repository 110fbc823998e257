package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/outbox"
)

const putSize = 1000

func (b *bencher) put(size int) one {
	return func(ctx context.Context, n int64) error {
		n = b.id(n)
		return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
			events := make([]outbox.Event, size)
			for i := range events {
				events[i] = outbox.Event{AggregateType: "batch", AggregateID: fmt.Sprint(n), Type: eventType, Payload: payload(), DedupKey: fmt.Sprint(n, "/", i)}
			}
			results, err := traced.Put(ctx, tx, events...)
			if err == nil && !results[size-1].Inserted {
				return errLost
			}
			return err
		})
	}
}

func (b *bencher) handPut(ctx context.Context, n int64) error {
	n = b.id(n)
	return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		ids, ints, keys, payloads, partitions := make([]string, putSize), make([]string, putSize), make([]string, putSize), make([][]byte, putSize), make([]int16, putSize)
		for i := range ids {
			e := event(n)
			ids[i], ints[i], payloads[i], keys[i] = e[0].(string), fmt.Sprint(n), payload(), fmt.Sprint(n, "/", i)
			partitions[i] = int16(outbox.Partition("batch", ints[i]))
		}
		_, err := tx.Exec(ctx, `INSERT INTO endstate_outbox `+eventColumns+`
SELECT id::uuid, 'batch', aggregate_id, $5, payload, 'application/json', $7, clock_timestamp(), dedup_key, partition, 1
FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $6::int2[]) AS e (id, aggregate_id, payload, dedup_key, partition) ON CONFLICT DO NOTHING`, ids, ints, payloads, keys, eventType, partitions, headers)
		return err
	})
}

func (b *bencher) handPutOne(ctx context.Context, n int64) error {
	n = b.id(n)
	return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, insertEvent+" ON CONFLICT DO NOTHING", event(n)...)
		return err
	})
}
