package main

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/outbox"
)

// What a careful user writes by hand, on the same tables.

const open = `NOT (starts_with(status, 'COMPLETE') OR starts_with(status, 'ERROR'))`

const eventColumns = `(id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, partition, schema_version)`

// event are the arguments of an event of the aggregate.
func event(n int64) []any {
	id, err := uuid.NewV7()
	if err != nil {
		panic(err) // the system has no randomness
	}
	return []any{id.String(), "batch", fmt.Sprint(n), eventType, payload(), "application/json", headers, fmt.Sprintf("batch/i:%d#%s", n, eventType), outbox.Partition("batch", fmt.Sprint(n))}
}

const eventValues = `$3::uuid, $4, $5, $6, $7, $8, $9::jsonb, clock_timestamp(), $10, $11, 1`

func (b *bencher) exec(ctx context.Context, sql string, args ...any) error {
	return execOn(ctx, b.pool, sql, args...)
}

func execOn(ctx context.Context, pool *pgxpool.Pool, sql string, args ...any) error {
	tag, err := pool.Exec(ctx, sql, args...)
	if err == nil && tag.RowsAffected() != 1 {
		return errLost
	}
	return err
}

const statusStatement = `WITH won AS (UPDATE batches SET status = $2 WHERE id = $1 AND ` + open + ` RETURNING id)
INSERT INTO endstate_outbox ` + eventColumns + ` SELECT ` + eventValues + ` FROM won`

func (b *bencher) handStatusStatement(ctx context.Context, n int64) error {
	n = b.id(n)
	return b.exec(ctx, statusStatement, append([]any{n, state}, event(n)...)...)
}

func (b *bencher) handOnManyConnections(ctx context.Context, n int64) error {
	n = b.id(n)
	return execOn(ctx, b.wide, statusStatement, append([]any{n, state}, event(n)...)...)
}

const ledgerInsert = `INSERT INTO endstate_ledger (aggregate, key, state, trigger, token, digest, at) `

func (b *bencher) handLedgerStatement(ctx context.Context, n int64) error {
	n = b.id(n)
	return b.exec(ctx, `WITH won AS (`+ledgerInsert+`VALUES ('batch', $1, $2, 'bench', $12::uuid, NULL, clock_timestamp()) ON CONFLICT DO NOTHING RETURNING key)
INSERT INTO endstate_outbox `+eventColumns+` SELECT `+eventValues+` FROM won`, append(append([]any{fmt.Sprintf("i:%d", n), state}, event(n)...), uuid.NewString())...)
}

func (b *bencher) handAllStatement(ctx context.Context, n int64) error {
	n = b.id(n)
	return b.exec(ctx, `WITH won AS (UPDATE batches SET status = $2 WHERE id = $1 AND `+open+` RETURNING id),
entry AS (`+ledgerInsert+`SELECT 'batch', 'i:' || id, $2, 'bench', $12::uuid, NULL, clock_timestamp() FROM won RETURNING key)
INSERT INTO endstate_outbox `+eventColumns+` SELECT `+eventValues+` FROM entry`, append(append([]any{n, state}, event(n)...), uuid.NewString())...)
}

// pipelined begins and claims in one trip, and settles, writes and commits in another.
func (b *bencher) pipelined(ctx context.Context, claim string, claimArgs []any, settle func(*pgx.Batch)) error {
	conn, err := b.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	first := &pgx.Batch{}
	first.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	first.Queue(claim, claimArgs...)
	results := conn.SendBatch(ctx, first)
	if _, err := results.Exec(); err != nil {
		return err
	}
	tag, err := results.Exec()
	if err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return errLost
	}
	if err := results.Close(); err != nil {
		return err
	}
	second := &pgx.Batch{}
	settle(second)
	second.Queue("commit")
	return conn.SendBatch(ctx, second).Close()
}

const insertEvent = `INSERT INTO endstate_outbox ` + eventColumns + ` VALUES ($1::uuid, $2, $3, $4, $5, $6, $7::jsonb, clock_timestamp(), $8, $9, 1)`

func (b *bencher) handStatusPipelined(ctx context.Context, n int64) error {
	n = b.id(n)
	return b.pipelined(ctx, `SELECT status FROM batches WHERE id = $1 AND `+open+` FOR NO KEY UPDATE`, []any{n}, func(batch *pgx.Batch) {
		batch.Queue(`UPDATE batches SET status = $2 WHERE id = $1`, n, state)
		batch.Queue(insertEvent, event(n)...)
	})
}

func (b *bencher) handLedgerPipelined(ctx context.Context, n int64) error {
	n = b.id(n)
	key := fmt.Sprintf("i:%d", n)
	return b.pipelined(ctx, ledgerInsert+`VALUES ('batch', $1, '', 'bench', $2::uuid, NULL, clock_timestamp()) ON CONFLICT DO NOTHING`, []any{key, uuid.NewString()}, func(batch *pgx.Batch) {
		batch.Queue(`UPDATE endstate_ledger SET state = $2 WHERE aggregate = 'batch' AND key = $1`, key, state)
		batch.Queue(insertEvent, event(n)...)
	})
}

func (b *bencher) handAllPipelined(ctx context.Context, n int64) error {
	n = b.id(n)
	return b.pipelined(ctx, `SELECT status FROM batches WHERE id = $1 AND `+open+` FOR NO KEY UPDATE`, []any{n}, func(batch *pgx.Batch) {
		batch.Queue(`UPDATE batches SET status = $2 WHERE id = $1`, n, state)
		batch.Queue(ledgerInsert+`VALUES ('batch', $1, $2, 'bench', $3::uuid, NULL, clock_timestamp())`, fmt.Sprintf("i:%d", n), state, uuid.NewString())
		batch.Queue(insertEvent, event(n)...)
	})
}

func (b *bencher) handOneByOne(ctx context.Context, n int64) error {
	n = b.id(n)
	return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		var status string
		if err := tx.QueryRow(ctx, `SELECT status FROM batches WHERE id = $1 AND `+open+` FOR UPDATE`, n).Scan(&status); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE batches SET status = $2 WHERE id = $1`, n, state); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, insertEvent, event(n)...)
		return err
	})
}

func (b *bencher) handSelect(ctx context.Context, n int64) error {
	n = b.id(n)
	var status string
	return b.pool.QueryRow(ctx, `SELECT status FROM batches WHERE id = $1`, n).Scan(&status)
}
