package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/outbox"
)

// The files peer_*.go hold what a careful user writes by hand, or takes, instead of the library: the same rows in the same
// tables, as fast as we could make it. They don't follow the library's changes, or the ratios of two of its versions couldn't
// be compared.
//
// What all by hand leave out: whether the row is as it was written once triggers have had their say, who was first, another
// event's dedup key, answers that got lost, another run after 40001 and 40P01, and how callers of one process wait.

const open = `NOT (starts_with(status, 'COMPLETE') OR starts_with(status, 'ERROR'))`

const eventColumns = `(id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, partition, schema_version)`

// eventValues are the columns of an event in a statement: what is the same for each event of its kind, and parameters from $3 on.
const eventValues = `$3::uuid, 'batch', $4::text, '` + eventType + `', $5::bytea, 'application/json', $6::jsonb, clock_timestamp(), $7::text, $8::int2, 1`

// withEvent are the arguments of a statement: two of its own, those of an event of the aggregate, and more of its own.
func withEvent(first, second any, aggregate int64, more ...any) []any {
	text := strconv.FormatInt(aggregate, 10)
	args := make([]any, 0, 10)
	args = append(args, first, second, handID(), text, payload(), headers, "batch/i:"+text+"#"+eventType, int16(outbox.Partition("batch", text)))
	return append(args, more...)
}

func handID() pgtype.UUID {
	id, err := uuid.NewV7()
	if err != nil {
		panic(err) // the system has no randomness
	}
	return pgtype.UUID{Bytes: id, Valid: true}
}

func ledgerKey(aggregate int64) string { return "i:" + strconv.FormatInt(aggregate, 10) }

// One statement.

const statusStatement = `WITH won AS (UPDATE batches SET status = $2 WHERE id = $1 AND ` + open + ` RETURNING id)
INSERT INTO endstate_outbox ` + eventColumns + ` SELECT ` + eventValues + ` FROM won`

const ledgerInsert = `INSERT INTO endstate_ledger (aggregate, key, state, trigger, token, digest, at) `

const ledgerStatement = `WITH won AS (` + ledgerInsert + `VALUES ('batch', $1, $2, 'bench', $9, NULL, clock_timestamp()) ON CONFLICT DO NOTHING RETURNING 1)
INSERT INTO endstate_outbox ` + eventColumns + ` SELECT ` + eventValues + ` FROM won`

const allStatement = `WITH won AS (UPDATE batches SET status = $2 WHERE id = $1 AND ` + open + ` RETURNING id),
entry AS (` + ledgerInsert + `SELECT 'batch', $9, $2, 'bench', $10, NULL, clock_timestamp() FROM won)
INSERT INTO endstate_outbox ` + eventColumns + ` SELECT ` + eventValues + ` FROM won`

func (b *bencher) handStatusStatement(ctx context.Context, n int64) error {
	return handStatement(ctx, b.pool, b.id(n))
}

func (b *bencher) handOnManyConnections(ctx context.Context, n int64) error {
	return handStatement(ctx, b.wide, b.id(n))
}

func handStatement(ctx context.Context, pool *pgxpool.Pool, id int64) error {
	return handExec(ctx, pool, statusStatement, withEvent(id, state, id))
}

func (b *bencher) handLedgerStatement(ctx context.Context, n int64) error {
	n = b.id(n)
	return handExec(ctx, b.pool, ledgerStatement, withEvent(ledgerKey(n), state, n, handID()))
}

func (b *bencher) handAllStatement(ctx context.Context, n int64) error {
	n = b.id(n)
	return handExec(ctx, b.pool, allStatement, withEvent(n, state, n, ledgerKey(n), handID()))
}

func handExec(ctx context.Context, pool *pgxpool.Pool, sql string, args []any) error {
	tag, err := pool.Exec(ctx, sql, args...)
	if err == nil && tag.RowsAffected() != 1 {
		return errLost
	}
	return err
}

// Two round trips: one begins and claims, then there is time for work, the other settles, writes and commits.

const claimStatus = `SELECT status FROM batches WHERE id = $1 AND ` + open + ` FOR NO KEY UPDATE`

const settleStatus = `WITH won AS (UPDATE batches SET status = $2 WHERE id = $1 RETURNING id)
INSERT INTO endstate_outbox ` + eventColumns + ` SELECT ` + eventValues + ` FROM won`

// An insert would wait for another's as well, but leave two versions of the row, since its state isn't known yet.
const claimLedger = `SELECT pg_advisory_xact_lock(hashtextextended($1, 0)) WHERE NOT EXISTS (SELECT FROM endstate_ledger WHERE aggregate = 'batch' AND key = $1)`

const settleAll = `WITH won AS (UPDATE batches SET status = $2 WHERE id = $1 RETURNING id),
entry AS (` + ledgerInsert + `SELECT 'batch', $9, $2, 'bench', $10, NULL, clock_timestamp() FROM won)
INSERT INTO endstate_outbox ` + eventColumns + ` SELECT ` + eventValues + ` FROM won`

func (b *bencher) handStatusPipelined(ctx context.Context, n int64) error {
	n = b.id(n)
	return handPipelined(ctx, b.pool, claimStatus, n, func() (string, []any) {
		return settleStatus, withEvent(n, state, n)
	})
}

func (b *bencher) handLedgerPipelined(ctx context.Context, n int64) error {
	n = b.id(n)
	key := ledgerKey(n)
	return handPipelined(ctx, b.pool, claimLedger, key, func() (string, []any) {
		return ledgerStatement, withEvent(key, state, n, handID())
	})
}

func (b *bencher) handAllPipelined(ctx context.Context, n int64) error {
	n = b.id(n)
	return handPipelined(ctx, b.pool, claimStatus, n, func() (string, []any) {
		return settleAll, withEvent(n, state, n, ledgerKey(n), handID())
	})
}

func handPipelined(ctx context.Context, pool *pgxpool.Pool, claim string, key any, settle func() (string, []any)) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release() // which closes a connection that is in a transaction
	first := &pgx.Batch{}
	first.Queue("begin")
	first.Queue(claim, key)
	results := conn.SendBatch(ctx, first)
	_, err = results.Exec()
	if err != nil {
		return errors.Join(err, results.Close())
	}
	tag, err := results.Exec()
	if err := errors.Join(err, results.Close()); err != nil {
		return err
	}
	second := &pgx.Batch{}
	if tag.RowsAffected() != 1 {
		_, err := conn.Exec(ctx, "rollback")
		return errors.Join(errLost, err)
	}
	sql, args := settle()
	second.Queue(sql, args...)
	second.Queue("commit")
	results = conn.SendBatch(ctx, second)
	tag, err = results.Exec()
	if err == nil && tag.RowsAffected() != 1 {
		err = errLost
	}
	return errors.Join(err, results.Close())
}

// A statement after the other, as most write it.

const insertEvent = `INSERT INTO endstate_outbox ` + eventColumns + ` VALUES ($1::uuid, 'batch', $2::text, '` + eventType + `', $3::bytea, 'application/json', $4::jsonb, clock_timestamp(), $5::text, $6::int2, 1)`

// eventArgs are those of insertEvent.
func eventArgs(aggregate int64) []any { return withEvent(nil, nil, aggregate)[2:] }

func (b *bencher) handOneByOne(ctx context.Context, n int64) error {
	n = b.id(n)
	return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		var status string
		if err := tx.QueryRow(ctx, `SELECT status FROM batches WHERE id = $1 AND `+open+` FOR NO KEY UPDATE`, n).Scan(&status); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE batches SET status = $2 WHERE id = $1`, n, state); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, insertEvent, eventArgs(n)...)
		return err
	})
}

// Losers, and calls of which some lose.

func (b *bencher) handSelect(ctx context.Context, n int64) error {
	_, err := b.handStatus(ctx, b.id(n))
	return err
}

func (b *bencher) handStatus(ctx context.Context, id int64) (status string, err error) {
	err = b.pool.QueryRow(ctx, `SELECT status FROM batches WHERE id = $1`, id).Scan(&status)
	return status, err
}

// handWritesFirst never looks first: a loser, who needs to know the state, pays for two trips.
func (b *bencher) handWritesFirst(write one) one {
	return func(ctx context.Context, n int64) error {
		err := write(ctx, n)
		if errors.Is(err, errLost) {
			_, err = b.handStatus(ctx, b.id(n))
		}
		return err
	}
}

// handLooksFirst always looks first: a winner pays for a trip more.
func (b *bencher) handLooksFirst(write one) one {
	return func(ctx context.Context, n int64) error {
		status, err := b.handStatus(ctx, b.id(n))
		if err != nil || status == state {
			return err
		}
		return write(ctx, n)
	}
}

// handLoses is what a user of River writes, whose job goes in only if the status could be changed.
func (b *bencher) handLoses(ctx context.Context, n int64) error {
	err := pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE batches SET status = $2 WHERE id = $1 AND `+open, b.id(n), state)
		if err == nil && tag.RowsAffected() == 0 {
			return errTold
		}
		return err
	})
	if errors.Is(err, errTold) {
		return nil
	}
	return errors.Join(errLost, err)
}

var errTold = errors.New("somebody else was first")
