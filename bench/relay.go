package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/outbox"
)

// drain empties an outbox of n pending events with a publisher that does nothing.
type drain func(ctx context.Context, pool *pgxpool.Pool, n int) error

// dcase is a pair of ways to empty an outbox.
type dcase struct {
	name, peer, must string
	published        int    // rows in the table that are published already
	index            string // of the peer
	ours, theirs     drain
}

func (b *bencher) drains() []dcase {
	return []dcase{
		{name: "relay/drain-vs-by-hand", peer: "select, mark, 500 at a time", must: ">= 0.80", index: handIndex, ours: drainByRelays(1), theirs: drainByHand},
		{name: "relay/two-vs-one", peer: "one relay", must: ">= 1.3", index: ourIndex, ours: drainByRelays(2), theirs: drainByRelays(1)},
	}
}

// drained counts the events that relays publish, and tells when that are all.
type drained struct {
	left atomic.Int64
	done chan struct{}
}

func (d *drained) Publish(_ context.Context, batch []outbox.Event) []error {
	if d.left.Add(-int64(len(batch))) == 0 {
		close(d.done)
	}
	return nil
}

// drainByRelays drains with a number of relays.
func drainByRelays(relays int) drain {
	return func(ctx context.Context, pool *pgxpool.Pool, n int) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		d := &drained{done: make(chan struct{})}
		d.left.Store(int64(n))
		var group sync.WaitGroup
		defer group.Wait()
		defer cancel()
		failed := make(chan error, relays)
		for range relays {
			r, err := outbox.NewRelay(pool, d, &outbox.RelayConfig{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				return err
			}
			group.Go(func() { failed <- r.Run(ctx) })
		}
		select {
		case <-d.done:
		case err := <-failed:
			return errors.Join(err, errors.New("a relay ended"))
		case <-ctx.Done():
			return ctx.Err()
		}
		cancel()
		group.Wait()
		return nil
	}
}

const handBatch = 500

// drainByHand is what a relay of thirty lines does: alone, without leases, retries or order, and losing nothing.
func drainByHand(ctx context.Context, pool *pgxpool.Pool, n int) error {
	publisher := outbox.PublisherFunc(func(context.Context, outbox.Event) error { return nil })
	for total := 0; total < n; {
		rows, err := pool.Query(ctx, `SELECT seq, id, aggregate_type, aggregate_id, type, payload, content_type, headers::text, occurred_at, dedup_key, schema_version
FROM endstate_outbox WHERE published_at IS NULL AND dead_at IS NULL AND next_attempt_at IS NULL ORDER BY seq LIMIT $1`, handBatch)
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

// The index that a relay by hand has in place of ours.
const (
	handIndex = `DROP INDEX IF EXISTS endstate_outbox_pending; CREATE INDEX IF NOT EXISTS by_hand ON endstate_outbox (seq) WHERE published_at IS NULL AND dead_at IS NULL AND next_attempt_at IS NULL`
	ourIndex  = `DROP INDEX IF EXISTS by_hand; CREATE INDEX IF NOT EXISTS endstate_outbox_pending ON endstate_outbox (shard, seq) WHERE published_at IS NULL AND dead_at IS NULL AND next_attempt_at IS NULL`
)

// fill makes an outbox with pending events, after a number of published ones.
func fill(ctx context.Context, pool *pgxpool.Pool, index string, published, pending int) error {
	for _, statement := range []string{
		"TRUNCATE endstate_outbox",
		index,
		fill1(published, "clock_timestamp()"),
		fill1(pending, "NULL"),
		"VACUUM ANALYZE endstate_outbox",
		"CHECKPOINT",
	} {
		if _, err := pool.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	return nil
}

func fill1(n int, publishedAt string) string {
	return fmt.Sprintf(`INSERT INTO endstate_outbox (id, aggregate_type, aggregate_id, shard, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, published_at)
SELECT id, 'batch', id::text, get_byte(sha256(convert_to('batch/' || id::text, 'UTF8')), 0) %% 64, '%s', '%s', 'application/json', '{}', clock_timestamp(), 'batch/' || id::text, 1, %s
FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, %d)) e`, eventType, payload(), publishedAt, n)
}

// measureDrain alternates both ways and returns the median rates.
func (b *bencher) measureDrain(ctx context.Context, c dcase) (result, error) {
	var ours, theirs []float64
	rounds := max(3, b.rounds/3)
	for round := range rounds + 1 {
		pair := []struct {
			do    drain
			index string
			rates *[]float64
		}{{c.ours, ourIndex, &ours}, {c.theirs, c.index, &theirs}}
		if round%2 == 1 {
			slices.Reverse(pair)
		}
		for _, p := range pair {
			if b.oursOnly && p.rates == &theirs {
				continue
			}
			if err := fill(ctx, b.pool, p.index, c.published, b.drainEvents); err != nil {
				return result{}, err
			}
			start := time.Now()
			if err := p.do(ctx, b.pool, b.drainEvents); err != nil {
				return result{}, err
			}
			if round > 0 { // the first prepares statements and fills caches
				*p.rates = append(*p.rates, float64(b.drainEvents)/time.Since(start).Seconds())
			}
		}
	}
	r := result{Name: c.name, Peer: c.peer, Ours: median(ours), PeerRate: median(theirs), must: c.must}
	if r.PeerRate > 0 {
		r.Ratio = r.Ours / r.PeerRate
	}
	return r, nil
}
