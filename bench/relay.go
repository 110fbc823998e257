package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

const (
	drainEvents = 50_000
	manyEvents  = 200_000 // relays that start together have their shares after a second
)

// relays are the cases of publishing what is in the outbox. The time ends with the last event's publication. Published events
// are deleted, as suits those whose dedup is the ledger's, or marked, which costs an entry in each index of the table.
func (b *bencher) relays(r *riverPeer) []bcase {
	cases := []bcase{
		{name: "relay-vs-river", peer: "River, a worker that does nothing, 2,000 goroutines", must: 3, long: true,
			ours: b.drain(relay.DeleteOnPublish), theirs: r.drain(drainEvents)},
		{name: "relay-vs-watermill", peer: "Watermill's SQL subscriber, 500 at a time", must: 1.5, long: true,
			ours: b.drain(relay.DeleteOnPublish), theirs: b.watermillDrain(drainEvents)},
		{name: "marking/relay-vs-river", peer: "River, a worker that does nothing, 2,000 goroutines", long: true,
			ours: b.drain(relay.KeepForever), theirs: r.drain(drainEvents)},
		{name: "marking/relay-vs-watermill", peer: "Watermill's SQL subscriber, 500 at a time", long: true,
			ours: b.drain(relay.KeepForever), theirs: b.watermillDrain(drainEvents)},
	}
	if b.quick {
		return cases
	}
	return append(append(cases, b.snapshots(r)...),
		bcase{name: "relay-vs-by-hand", peer: "select, mark, 500 at a time", must: 0.80, long: true, ours: b.drain(relay.KeepForever), theirs: b.drainByHand},
		bcase{name: "two-relays-vs-one", peer: "one relay", must: 1.3, long: true, ours: b.drainWith(2, manyEvents, relay.KeepForever), theirs: b.drainWith(1, manyEvents, relay.KeepForever)})
}

// The column and the index that a relay by hand marks.
const (
	handIndex = `ALTER TABLE endstate_outbox ADD COLUMN IF NOT EXISTS published_at timestamptz; CREATE INDEX IF NOT EXISTS by_hand ON endstate_outbox (seq) WHERE published_at IS NULL`
	ourIndex  = `DROP INDEX IF EXISTS by_hand; ALTER TABLE endstate_outbox DROP COLUMN IF EXISTS published_at`
)

// fill makes an outbox of pending events, whose ids grow as those of version 7 do. What is published stays in one that is kept.
func (b *bencher) fill(ctx context.Context, index string, n int) error {
	b.room = 0 // the cases after this begin anew
	statements := []string{index, b.events(b.filled, n), "VACUUM ANALYZE endstate_outbox", "CHECKPOINT"}
	if b.keep {
		b.filled += n
	} else {
		statements = append([]string{"TRUNCATE endstate_outbox"}, statements...)
	}
	for _, statement := range statements {
		if _, err := b.pool.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// events inserts n events, after so many others, of aggregates whose ids are negative: those of the other cases aren't.
func (w *world) events(after, n int) string {
	return fmt.Sprintf(`INSERT INTO endstate_outbox %s
SELECT ('018f0000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'batch', '-' || n, '%[2]s', '%[3]s', 'application/json', '{}', clock_timestamp(), 'batch/i:-' || n || '#%[2]s',
	get_byte(sha256(convert_to('batch/-' || n, 'UTF8')), 0) %% %[4]d, 1
FROM generate_series(%[5]d, %[6]d) n`, eventColumns, eventType, payload(), outbox.Partitions, after+1, after+n)
}

// drain publishes events with one relay, whose publisher does nothing.
func (b *bencher) drain(retention time.Duration) way { return b.drainWith(1, drainEvents, retention) }

// drainWith publishes n events with a number of relays.
func (b *bencher) drainWith(relays, n int, retention time.Duration) way {
	return func(ctx context.Context) (sample, error) {
		if err := b.fill(ctx, ourIndex, n); err != nil {
			return sample{}, err
		}
		count := newCounter(n)
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		var group sync.WaitGroup
		ended := make(chan error, relays)
		s, err := b.sample(ctx, func() (float64, error) {
			for range relays {
				rel, err := relay.New(b.pool, taker{count}, &relay.Config{Retention: retention, Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					return 0, err
				}
				group.Go(func() {
					ended <- rel.Run(ctx)
					count.end()
				})
			}
			return float64(n), count.wait(ctx)
		})
		stop()
		group.Wait()
		close(ended)
		for e := range ended {
			err = errors.Join(err, e)
		}
		return s, err
	}
}

// taker is a Publisher that takes everything.
type taker struct{ *counter }

func (t taker) Publish(_ context.Context, batch []outbox.Event) []error {
	t.add(len(batch))
	return nil
}

func (b *bencher) drainByHand(ctx context.Context) (sample, error) {
	if err := b.fill(ctx, handIndex, drainEvents); err != nil {
		return sample{}, err
	}
	s, err := b.sample(ctx, func() (float64, error) { return drainEvents, drainByHand(ctx, b.pool, drainEvents) })
	if err != nil {
		return s, err
	}
	_, err = b.pool.Exec(ctx, ourIndex) // for the cases after this
	return s, err
}

const handBatch = 500

// drainByHand is what a relay of thirty lines does: alone, without leases, retries or order, and losing nothing.
func drainByHand(ctx context.Context, pool *pgxpool.Pool, n int) error {
	publisher := outbox.PublisherFunc(func(context.Context, outbox.Event) error { return nil })
	for total := 0; total < n; {
		rows, err := pool.Query(ctx, `SELECT seq, id, aggregate_type, aggregate_id, type, payload, content_type, headers::text, occurred_at, dedup_key, schema_version
FROM endstate_outbox WHERE published_at IS NULL ORDER BY seq LIMIT $1`, handBatch)
		if err != nil {
			return err
		}
		var seqs []int64
		var events []outbox.Event
		for rows.Next() {
			var e outbox.Event
			var seq int64
			var id [16]byte
			var headers []byte
			var dedup *string
			if err := rows.Scan(&seq, &id, &e.AggregateType, &e.AggregateID, &e.Type, &e.Payload, &e.ContentType, &headers, &e.OccurredAt, &dedup, &e.SchemaVersion); err != nil {
				return err
			}
			e.ID = uuid.UUID(id)
			if dedup != nil {
				e.DedupKey = *dedup
			}
			if err := json.Unmarshal(headers, &e.Headers); err != nil {
				return err
			}
			seqs, events = append(seqs, seq), append(events, e)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		if errs := publisher.Publish(ctx, events); errs != nil {
			return errors.Join(errs...)
		}
		tag, err := pool.Exec(ctx, `UPDATE endstate_outbox SET published_at = clock_timestamp() WHERE seq = ANY ($1)`, seqs)
		if err != nil {
			return err
		}
		total += int(tag.RowsAffected())
	}
	return nil
}
