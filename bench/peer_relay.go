package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/outbox"
)

// handTable is the outbox that a relay by hand marks.
const handTable = `CREATE TABLE IF NOT EXISTS by_hand (
	seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid NOT NULL UNIQUE, aggregate_type text NOT NULL, aggregate_id text NOT NULL, type text NOT NULL, payload bytea NOT NULL,
	content_type text NOT NULL, headers jsonb NOT NULL, occurred_at timestamptz NOT NULL, dedup_key text UNIQUE, partition smallint NOT NULL, schema_version integer NOT NULL, published_at timestamptz);
CREATE INDEX IF NOT EXISTS by_hand_pending ON by_hand (seq) WHERE published_at IS NULL`

func (b *bencher) drainByHand(ctx context.Context) (sample, error) {
	if err := b.all(ctx, handTable, "TRUNCATE by_hand", b.events("by_hand", 0, drainEvents), "VACUUM (FREEZE, ANALYZE) by_hand", "CHECKPOINT"); err != nil {
		return sample{}, err
	}
	return b.sample(ctx, func() (float64, error) {
		count := newCounter(drainEvents)
		return drainEvents, drainByHand(ctx, b.pool, taker{count, 0}, drainEvents)
	})
}

const (
	handBatch = 1000 // what a relay has as its default
	handRead  = `SELECT seq, id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version
FROM by_hand WHERE published_at IS NULL ORDER BY seq LIMIT $1`
	handMark = `UPDATE by_hand SET published_at = clock_timestamp() WHERE seq = ANY ($1)`
)

// drainByHand is what a relay of fifty lines does: alone, it marks what it has published and reads what comes next in one trip.
// It leaves out leases, and so a second relay, retries, backoff, dead letters, and an order that holds although a row's number
// says nothing of when it commits.
func drainByHand(ctx context.Context, pool *pgxpool.Pool, publisher outbox.Publisher, n int) error {
	seqs, events := make([]int64, 0, handBatch), make([]outbox.Event, 0, handBatch)
	for total := 0; total < n; {
		batch := &pgx.Batch{}
		if len(seqs) > 0 {
			batch.Queue(handMark, seqs)
		}
		batch.Queue(handRead, handBatch)
		results := pool.SendBatch(ctx, batch)
		if len(seqs) > 0 {
			tag, err := results.Exec()
			if err != nil {
				return errors.Join(err, results.Close())
			}
			total += int(tag.RowsAffected())
			seqs, events = seqs[:0], events[:0]
		}
		rows, err := results.Query()
		if err != nil {
			return errors.Join(err, results.Close())
		}
		for rows.Next() {
			var e outbox.Event
			var seq int64
			var headers []byte
			var dedup *string
			if err := rows.Scan(&seq, (*[16]byte)(&e.ID), &e.AggregateType, &e.AggregateID, &e.Type, &e.Payload, &e.ContentType, &headers, &e.OccurredAt, &dedup, &e.SchemaVersion); err != nil {
				return errors.Join(err, results.Close())
			}
			if dedup != nil {
				e.DedupKey = *dedup
			}
			if err := json.Unmarshal(headers, &e.Headers); err != nil {
				return errors.Join(err, results.Close())
			}
			seqs, events = append(seqs, seq), append(events, e)
		}
		if err := errors.Join(rows.Err(), results.Close()); err != nil {
			return err
		}
		if len(events) > 0 {
			if errs := publisher.Publish(ctx, events); errs != nil {
				return errors.Join(errs...)
			}
		}
	}
	return nil
}

// bareSelect is the floor under any reader: it reads an outbox's events by position, a relay's batch at a time, and makes nothing of them.
func (b *bencher) bareSelect(ctx context.Context) (sample, error) {
	if err := b.fill(ctx, drainEvents); err != nil {
		return sample{}, err
	}
	return b.sample(ctx, func() (float64, error) {
		for p := range outbox.Partitions {
			for seq, n := int64(0), handBatch; n == handBatch; {
				rows, err := b.pool.Query(ctx, `SELECT seq, id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version
FROM endstate_outbox WHERE partition = $1 AND seq > $2 ORDER BY partition, seq LIMIT $3`, p, seq, handBatch)
				if err != nil {
					return 0, err
				}
				for n = 0; rows.Next(); n++ {
					seq = int64(binary.BigEndian.Uint64(rows.RawValues()[0]))
				}
				if err := rows.Err(); err != nil {
					return 0, err
				}
			}
		}
		return drainEvents, nil
	})
}
