package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/endstate-go/endstate"
)

// sqlite is the store on SQLite, where one writer at a time makes each step atomic. A statement takes a whole batch: others
// wait while it is written, and one for each event could outlast mark's time.
type sqlite struct{ tables }

func (s *sqlite) owned(condition string) string {
	return fmt.Sprintf("(SELECT shard FROM %s WHERE epoch = ?1%s)", s.shards, condition)
}

func (s *sqlite) read(ctx context.Context, epoch int64, q reading) ([]row, error) {
	trusted, suspected := " AND suspect_from IS NULL", " AND suspect_from IS NOT NULL"
	inRange := fmt.Sprintf(" AND EXISTS (SELECT 1 FROM %s s WHERE s.shard = e.shard AND e.seq BETWEEN s.suspect_from AND s.suspect_to)", s.shards)
	var query string
	switch q.lane {
	case ready:
		query = s.ready(trusted, "", q.ordered)
	case suspect:
		query = s.ready(suspected, inRange, q.ordered)
	case due:
		query = s.due(trusted, " AND crashes = 0", q.perTurn)
	case alone:
		query = s.due(trusted, " AND crashes > 0", q.perTurn)
	case suspectDue:
		query = s.due(suspected, inRange, q.perTurn)
	}
	rows, err := s.Query(ctx, query, epoch, q.limit)
	batch, err := collect(rows, s.dialect, err)
	if err != nil || len(batch) == 0 {
		return nil, err
	}
	from, to := batch[0].seq, batch[0].seq
	for i := range batch {
		from, to = min(from, batch[i].seq), max(to, batch[i].seq)
	}
	tag, err := s.Exec(ctx, fmt.Sprintf("UPDATE %s SET flight_from = ?2, flight_to = ?3 WHERE epoch = ?1", s.relays), epoch, from, to)
	if err != nil || tag.RowsAffected() == 0 {
		return nil, err
	}
	return batch, nil
}

func (s *sqlite) ready(shards, condition string, ordered bool) string {
	behind := "0"
	if ordered {
		behind = fmt.Sprintf("EXISTS (SELECT 1 FROM %s w WHERE %s)", s.outbox, waitsBefore)
	}
	return fmt.Sprintf("SELECT %s, %s FROM %s e WHERE %s AND shard IN %s%s ORDER BY seq LIMIT ?2",
		rowColumns, behind, s.outbox, isPending, s.owned(shards), condition)
}

func (s *sqlite) due(shards, condition string, perTurn int) string {
	return fmt.Sprintf(`SELECT %[1]s, 0 FROM (
	SELECT e.*, row_number() OVER (PARTITION BY e.aggregate_type, e.aggregate_id ORDER BY e.seq) AS turn FROM (
		SELECT min(seq) AS seq, aggregate_type, aggregate_id FROM (
			SELECT seq, aggregate_type, aggregate_id FROM %[2]s e WHERE next_attempt_at <= %[3]s AND shard IN %[4]s%[5]s ORDER BY next_attempt_at LIMIT ?2)
		GROUP BY aggregate_type, aggregate_id) head
	JOIN %[2]s e ON e.next_attempt_at IS NOT NULL AND e.aggregate_type = head.aggregate_type AND e.aggregate_id = head.aggregate_id AND e.seq >= head.seq)
WHERE turn <= %[6]d ORDER BY seq LIMIT ?2`, rowColumns, s.outbox, s.clock(), s.owned(shards), condition, perTurn)
}

func (s *sqlite) mark(ctx context.Context, epoch int64, o *outcome) (alive bool, err error) {
	failed, promoted, err := o.json()
	if err != nil {
		return false, err
	}
	err = s.inTx(ctx, func(tx endstate.Tx) error {
		tag, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET flight_from = NULL, flight_to = NULL WHERE epoch = ?1", s.relays), epoch)
		if alive = err == nil && tag.RowsAffected() == 1; !alive {
			return err
		}
		change := func(statement string, args ...any) error {
			_, err := tx.Exec(ctx, statement+" AND published_at IS NULL AND shard IN "+s.owned(""), append([]any{epoch}, args...)...)
			return err
		}
		update := "UPDATE " + s.outbox + " SET "
		done := update + "published_at = " + s.clock() + ", next_attempt_at = NULL"
		if s.cfg.Retention == DeleteOnPublish {
			done = "DELETE FROM " + s.outbox
		}
		if err := change(done+" WHERE seq IN (SELECT value FROM json_each(?2))", numbers(s.dialect, o.published)); err != nil {
			return err
		}
		if len(o.failed) > 0 {
			if err := change(fmt.Sprintf(`%sattempts = attempts + f.counted, last_error = f.error, dead_at = CASE WHEN f.dead THEN %s END,
	next_attempt_at = CASE WHEN NOT f.dead THEN %s END
FROM (SELECT json_extract(value, '$.seq') AS failed, json_extract(value, '$.counted') AS counted, json_extract(value, '$.error') AS error, json_extract(value, '$.dead') AS dead, json_extract(value, '$.delay') AS delay FROM json_each(?2)) f
WHERE seq = f.failed`, update, s.clock(), s.later("f.delay")), failed); err != nil {
				return err
			}
		}
		if len(o.held) > 0 {
			if err := change(update+"next_attempt_at = 'infinity' WHERE next_attempt_at IS NULL AND seq IN (SELECT value FROM json_each(?2))", numbers(s.dialect, o.held)); err != nil {
				return err
			}
		}
		if len(o.promoted) > 0 {
			next := fmt.Sprintf(`SELECT (SELECT w.seq FROM %s w WHERE w.next_attempt_at IS NOT NULL AND w.aggregate_type = json_extract(a.value, '$.aggregate_type')
	AND w.aggregate_id = json_extract(a.value, '$.aggregate_id') AND w.seq > json_extract(a.value, '$.seq') ORDER BY w.seq LIMIT 1) FROM json_each(?2) a`, s.outbox)
			if err := change(update+"next_attempt_at = "+s.clock()+" WHERE seq IN ("+next+")", promoted); err != nil {
				return err
			}
		}
		return nil
	})
	return alive && err == nil, err
}

func (s *sqlite) reap(ctx context.Context) ([]string, error) {
	var expired int
	gone := fmt.Sprintf("FROM %s WHERE expires_at < %s", s.relays, s.clock())
	if err := s.QueryRow(ctx, "SELECT count(*) "+gone).Scan(&expired); err != nil || expired == 0 {
		return nil, err
	}
	var names []string
	err := s.inTx(ctx, func(tx endstate.Tx) error {
		rows, err := tx.Query(ctx, "DELETE "+gone+" RETURNING epoch, name, coalesce(flight_from, 0), coalesce(flight_to, 0)")
		if err != nil {
			return err
		}
		defer rows.Close()
		type lease struct{ epoch, from, to int64 }
		var leases []lease
		for rows.Next() {
			var l lease
			var name string
			if err := rows.Scan(&l.epoch, &name, &l.from, &l.to); err != nil {
				return err
			}
			leases, names = append(leases, l), append(names, name)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		rows.Close()
		for _, l := range leases {
			if l.from > 0 {
				if _, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET suspect_from = ?2, suspect_to = ?3 WHERE epoch = ?1 AND suspect_from IS NULL", s.shards), l.epoch, l.from, l.to); err != nil {
					return err
				}
			}
			if l.from > 0 && l.from == l.to {
				if err := s.count(ctx, tx, l.from); err != nil {
					return err
				}
			}
		}
		_, err = tx.Exec(ctx, s.orphanShards())
		return err
	})
	return names, err
}

// count counts a relay that died with one event.
func (s *sqlite) count(ctx context.Context, tx endstate.Tx, seq int64) error {
	_, err := tx.Exec(ctx, fmt.Sprintf(`UPDATE %s SET attempts = attempts + 1, crashes = crashes + 1, last_error = '%s',
	dead_at = CASE WHEN crashes + 1 >= ?2 THEN %s END, next_attempt_at = CASE WHEN crashes + 1 < ?2 THEN %s END
WHERE seq = ?1 AND published_at IS NULL AND dead_at IS NULL`, s.outbox, died, s.clock(), s.later("?3 * (1 << crashes)")), seq, s.cfg.MaxCrashes, s.cfg.MinBackoff.Seconds())
	return err
}

func (s *sqlite) nextDue(ctx context.Context, epoch int64) (time.Duration, bool, error) {
	var seconds float64
	var n int
	err := s.QueryRow(ctx, fmt.Sprintf(`SELECT coalesce(-1.0 * min(CASE WHEN at = 'infinity' THEN -60 ELSE %s END), 0.0), count(*)
FROM (SELECT next_attempt_at AS at FROM %s WHERE next_attempt_at IS NOT NULL AND shard IN %s ORDER BY next_attempt_at LIMIT 1)`,
		s.age("at"), s.outbox, s.owned("")), epoch).Scan(&seconds, &n)
	return time.Duration(max(0, seconds) * float64(time.Second)), n > 0, err
}
