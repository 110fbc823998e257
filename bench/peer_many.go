package main

import (
	"context"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/endstate-go/endstate/outbox"
)

// Many rows by one statement. They leave out, besides what those of a single row do, which of the rows went in, and what to do
// about one that is locked, refused, or there already.

// handEvents are the arrays of so many events.
type handEvents struct {
	keys       []int64
	ids        pgtype.FlatArray[pgtype.UUID]
	payloads   [][]byte
	partitions []int16
}

func newHandEvents(size int, key func(i int) int64) *handEvents {
	e := &handEvents{make([]int64, size), make([]pgtype.UUID, size), make([][]byte, size), make([]int16, size)}
	for i := range size {
		e.keys[i], e.ids[i], e.payloads[i] = key(i), handID(), payload()
		e.partitions[i] = int16(outbox.Partition("batch", strconv.FormatInt(e.keys[i], 10)))
	}
	return e
}

const manyStatement = `WITH won AS (
	UPDATE batches SET status = $1 FROM unnest($2::int8[], $3::uuid[], $4::bytea[], $5::int2[]) AS e (key, id, payload, partition)
	WHERE batches.id = e.key AND ` + open + ` RETURNING e.*)
INSERT INTO endstate_outbox ` + eventColumns + `
SELECT id, 'batch', key::text, '` + eventType + `', payload, 'application/json', $6::jsonb, clock_timestamp(), 'batch/i:' || key || '#` + eventType + `', partition, 1 FROM won`

func (b *bencher) handUnnest(size int64) one {
	return func(ctx context.Context, n int64) error {
		e := newHandEvents(int(size), func(i int) int64 { return b.id((n-1)*size + int64(i) + 1) })
		tag, err := b.pool.Exec(ctx, manyStatement, state, e.keys, e.ids, e.payloads, e.partitions, headers)
		if err == nil && tag.RowsAffected() != size {
			return errLost
		}
		return err
	}
}

const putStatement = `INSERT INTO endstate_outbox ` + eventColumns + `
SELECT id, 'batch', key::text, '` + eventType + `', payload, 'application/json', $1::jsonb, clock_timestamp(), dedup_key, partition, 1
FROM unnest($2::int8[], $3::uuid[], $4::bytea[], $5::int2[], $6::text[]) AS e (key, id, payload, partition, dedup_key) ON CONFLICT DO NOTHING`

func (b *bencher) handPut(ctx context.Context, n int64) error {
	n = b.id(n)
	return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		e := newHandEvents(putSize, func(int) int64 { return n })
		dedup, prefix := make([]string, putSize), strconv.FormatInt(n, 10)+"/"
		for i := range dedup {
			dedup[i] = prefix + strconv.Itoa(i)
		}
		tag, err := tx.Exec(ctx, putStatement, headers, e.keys, e.ids, e.payloads, e.partitions, dedup)
		if err == nil && tag.RowsAffected() != putSize {
			return errLost
		}
		return err
	})
}

func (b *bencher) handPutOne(ctx context.Context, n int64) error {
	n = b.id(n)
	return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, insertEvent+" ON CONFLICT DO NOTHING", eventArgs(n)...)
		if err == nil && tag.RowsAffected() != 1 {
			return errLost
		}
		return err
	})
}
