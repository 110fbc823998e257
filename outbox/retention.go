package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/endstate-go/endstate/internal/sleep"
)

// purgeWindow is how many rows a purge looks at, and at most deletes, in one transaction.
const purgeWindow = 1000

// Purge deletes events that were published longer than olderThan ago, in bounded batches that stop no relay and no other
// purge, and returns how many. Their dedup keys are free again: what must be deduplicated for longer is the ledger's task.
func (a *Admin) Purge(ctx context.Context, olderThan time.Duration) (int64, error) {
	if olderThan < 0 {
		return 0, fmt.Errorf("%w: olderThan is negative", ErrConfig)
	}
	n, err := purge(ctx, a.db, a.outbox, olderThan, 0)
	if err != nil {
		return n, fmt.Errorf("outbox: purge: %w", err)
	}
	return n, nil
}

// purge needs no index over published_at, since no event is published before it is created, and created_at grows with seq: it
// goes up by seq, past what is pending, dead or published lately, until it finds a window in which all events are young.
func purge(ctx context.Context, db database, w Writer, olderThan, pause time.Duration) (deleted int64, err error) {
	cutoff := db.later("-CAST($2 AS double precision)")
	look := fmt.Sprintf(`SELECT count(*), coalesce(max(seq), 0), coalesce(sum(CASE WHEN published_at < %[2]s THEN 1 ELSE 0 END), 0), coalesce(sum(CASE WHEN created_at < %[2]s THEN 1 ELSE 0 END), 0)
FROM (SELECT seq, published_at, created_at FROM %[1]s WHERE seq > CAST($1 AS bigint) ORDER BY seq LIMIT %[3]d) e`, w.table(), cutoff, purgeWindow)
	remove := fmt.Sprintf(`DELETE FROM %[1]s WHERE seq IN (
	SELECT seq FROM %[1]s WHERE seq > CAST($1 AS bigint) AND seq <= CAST($3 AS bigint) AND published_at < %[2]s%[3]s)`, w.table(), cutoff, db.skipLocked())
	for after := int64(0); ; {
		var rows, last, purgeable, old int64
		if err := db.QueryRow(ctx, look, after, olderThan.Seconds()).Scan(&rows, &last, &purgeable, &old); err != nil {
			return deleted, err
		}
		if purgeable > 0 {
			tag, err := db.Exec(ctx, remove, after, olderThan.Seconds(), last)
			if err != nil {
				return deleted, err
			}
			deleted += tag.RowsAffected()
		}
		if rows < purgeWindow || old == 0 {
			return deleted, nil
		}
		after = last
		if err := sleep.For(ctx, pause); err != nil {
			return deleted, err
		}
	}
}

// retain deletes what is older than the retention, now and then.
func (r *Relay) retain(ctx context.Context) {
	const pause = 10 * time.Millisecond // between two batches, for others
	for sleep.For(ctx, min(r.cfg.Retention/4, time.Minute)) == nil {
		n, err := purge(ctx, r.db, r.cfg.Outbox, r.cfg.Retention, pause)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			r.cfg.Logger.WarnContext(ctx, "outbox relay: old events not deleted, trying again later", "relay", r.cfg.Name, "error", err)
		case n > 0:
			r.cfg.Logger.DebugContext(ctx, "outbox relay: old events deleted", "relay", r.cfg.Name, "events", n)
		}
	}
}
