package main

import (
	"context"
	"crypto/sha256"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/endstate-go/endstate/outbox"
)

// What a consumer writes by hand that handles each event once. It counts no failures, waits for no other delivery but in the
// database, and doesn't say who was first. With a table of its own it can't tell two contents of one id apart either.

const (
	// recordSeen writes what the library writes, under the name of another consumer.
	recordSeen = `INSERT INTO endstate_inbox (consumer, key, digest, state, attempts, at) VALUES ('by hand', $1, $2, 'handled', 1, clock_timestamp()) ON CONFLICT DO NOTHING`
	lookUpSeen = `SELECT digest, state FROM endstate_inbox WHERE consumer = 'by hand' AND key = $1`

	seenTable  = `CREATE TABLE seen (consumer text, event_id uuid, handled_at timestamptz NOT NULL, PRIMARY KEY (consumer, event_id))`
	insertSeen = `INSERT INTO seen (consumer, event_id, handled_at) VALUES ('by hand', $1, now()) ON CONFLICT DO NOTHING`
)

const insertCredit = `INSERT INTO credits (batch, credits) VALUES ($1, 5)`

func credit(ctx context.Context, tx pgx.Tx, e outbox.Event) error {
	_, err := tx.Exec(ctx, insertCredit, e.AggregateID)
	return err
}

// recorded are the arguments of recordSeen.
func recorded(e outbox.Event) []any {
	h := sha256.New()
	h.Write([]byte(e.Type + "\x00" + e.AggregateType + "\x00" + e.AggregateID + "\x00"))
	h.Write(e.Payload)
	return []any{e.ID.String(), h.Sum(nil)}
}

func seen(e outbox.Event) []any { return []any{pgtype.UUID{Bytes: e.ID, Valid: true}} }

// handleByHand handles an event that has or hasn't been handled before, a statement after the other.
func (p *inboxPair) handleByHand(ctx context.Context, insert string, args []any, e outbox.Event, first bool) error {
	tx, err := p.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	tag, err := tx.Exec(ctx, insert, args...)
	switch {
	case err != nil:
		return err
	case (tag.RowsAffected() == 1) != first:
		return errLost
	case !first:
		return tx.Rollback(ctx)
	}
	if err := credit(ctx, tx, e); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// repeatByHand looks first, as who expects a repeat does.
func (p *inboxPair) repeatByHand(ctx context.Context) error {
	var digest []byte
	var state string
	return p.pool.QueryRow(ctx, lookUpSeen, p.repeat.ID.String()).Scan(&digest, &state)
}

// handlePipelined begins and records in one trip, writes the effect in a second one, as a function does that gets the
// transaction, and commits in a third.
func (p *inboxPair) handlePipelined(ctx context.Context, e outbox.Event) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	batch := &pgx.Batch{}
	batch.BeginTx(pgx.TxOptions{})
	batch.Queue(recordSeen, recorded(e)...)
	results := conn.SendBatch(ctx, batch)
	tx := results.Tx()
	defer func() { _ = tx.Rollback(ctx) }()
	_, err = results.Exec()
	tag, recordErr := results.Exec()
	if err := errors.Join(err, recordErr, results.Close()); err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return errLost
	}
	if err := credit(ctx, tx, e); err != nil {
		return err
	}
	return tx.Commit(ctx)
}
