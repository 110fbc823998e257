package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/outbox"
)

// purgeWindow is how many rows a purge looks at, and at most deletes, in one transaction.
const purgeWindow = 1000

// purge deletes events that every subscription has published longer than olderThan ago, in bounded batches, by ranges of the
// primary key, and returns how many. How long ago a cursor passed an event, its samples tell. What is parked stays, and what a
// cursor's snapshot doesn't show: it is late there, and may not have been read.
func (s *store) purge(ctx context.Context, olderThan, pause time.Duration) (deleted int64, err error) {
	shown := s.either(fmt.Sprintf(` AND NOT EXISTS (SELECT FROM %s c WHERE c.partition = e.partition AND e.seq > c.restored_through AND NOT pg_visible_in_snapshot(e.txid, c.snapshot))`, s.cursors), "")
	passed := "c.position"
	if olderThan > 0 {
		passed = s.least(passed, fmt.Sprintf("coalesce((SELECT p.position FROM %s p WHERE p.subscription = c.subscription AND p.partition = c.partition AND p.at <= %s ORDER BY p.at DESC LIMIT 1), 0)",
			s.samples, s.later("-CAST($2 AS double precision)")))
	}
	behind := fmt.Sprintf("SELECT coalesce(min(%s), 0), count(*) FROM %s c WHERE c.partition = CAST($1 AS integer) AND (c.placements = 0 OR c.position = 0) AND CAST($2 AS double precision) >= 0", passed, s.cursors)
	window := fmt.Sprintf("FROM %s e WHERE e.partition = CAST($1 AS integer) AND e.seq > CAST($2 AS bigint) AND e.seq <= CAST($3 AS bigint)", s.events)
	remove := fmt.Sprintf(`DELETE FROM %[1]s WHERE partition = CAST($1 AS integer) AND seq IN (SELECT e.seq %[2]s
	AND NOT EXISTS (SELECT 1 FROM %[3]s p WHERE p.partition = e.partition AND p.seq = e.seq)%[4]s)`, s.events, window, s.parked, shown)
	for partition := range outbox.Partitions {
		var limit int64
		var cursors int
		if err := s.QueryRow(ctx, behind, partition, olderThan.Seconds()).Scan(&limit, &cursors); err != nil {
			return deleted, err
		}
		for after := int64(0); after < limit; {
			var last *int64
			if err := s.row(ctx, []any{&last}, fmt.Sprintf("SELECT max(seq) FROM (SELECT e.seq %s ORDER BY e.partition, e.seq LIMIT %d) w", window, purgeWindow), partition, after, limit); err != nil {
				return deleted, err
			}
			if last == nil {
				break
			}
			tag, err := s.Exec(ctx, remove, partition, after, *last)
			if err != nil {
				return deleted, err
			}
			deleted += tag.RowsAffected()
			after = *last
			if err := sleep.For(ctx, pause); err != nil {
				return deleted, err
			}
		}
	}
	return deleted, nil
}

// retain deletes what is older than the retention, now and then.
func (r *Relay) retain(ctx context.Context) {
	const pause = 10 * time.Millisecond // between two batches, for others
	older, every := max(0, r.cfg.Retention), min(max(r.cfg.Retention/4, 50*time.Millisecond), time.Minute)
	if r.cfg.Retention == DeleteOnPublish {
		every = 200 * time.Millisecond
	}
	for sleep.For(ctx, every) == nil {
		n, err := r.store.purge(ctx, older, pause)
		if err == nil {
			err = r.store.forget(ctx, keepSamples+2*older)
		}
		switch {
		case ctx.Err() != nil:
		case err != nil:
			r.log.WarnContext(ctx, "outbox relay: old events not deleted, trying again later", "error", err)
		case n > 0:
			r.log.DebugContext(ctx, "outbox relay: old events deleted", "events", n)
		}
	}
}

// forget deletes samples that nobody asks for any more.
func (s *store) forget(ctx context.Context, olderThan time.Duration) error {
	return s.run(ctx, fmt.Sprintf("DELETE FROM %s WHERE subscription = CAST($1 AS text) AND at < %s", s.samples, s.later("-CAST($2 AS double precision)")), s.cfg.Subscription, olderThan.Seconds())
}
