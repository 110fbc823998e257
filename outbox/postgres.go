package outbox

import (
	"context"
	"fmt"
	"time"
)

// postgres is the store on PostgreSQL, each step one statement, which an autocommit makes atomic.
type postgres struct {
	tables
	dues map[lane]string // the readings of failed events
	// markPublished is the mark of a batch without failures; markAll of any.
	markPublished, markAll string
	reaping, dueing        string
}

func newPostgres(t tables) *postgres {
	p := &postgres{tables: t, dues: map[lane]string{}}
	p.dues[due] = p.reading(p.dueBatch(trusted, " AND crashes = 0"))
	p.dues[alone] = p.reading(p.dueBatch(trusted, " AND crashes > 0"))
	p.dues[suspectDue] = p.reading(p.dueBatch(suspected, inSuspect))
	p.markPublished, p.markAll = p.marking(false), p.marking(true)
	p.reaping = p.reapStatement()
	p.dueing = fmt.Sprintf(`SELECT CAST(CASE WHEN min(e.next_attempt_at) < 'infinity' THEN extract(epoch FROM min(e.next_attempt_at) - clock_timestamp()) ELSE 60 END AS double precision), count(*)
FROM %s s CROSS JOIN LATERAL (SELECT next_attempt_at FROM %s WHERE shard = s.shard AND next_attempt_at IS NOT NULL ORDER BY next_attempt_at LIMIT 1) e
WHERE s.epoch = $1::bigint`, t.shards, t.outbox)
	return p
}

// Conditions on shards, and on the events of suspected ones.
const (
	trusted   = "suspect_from IS NULL"
	suspected = "suspect_from IS NOT NULL"
	inSuspect = " AND seq BETWEEN s.suspect_from AND s.suspect_to"
)

// reading reads a batch and records its range as in flight. The record is for whoever finds this relay dead. It needn't
// survive a crash of the database, so nobody waits for the disk; where there is no batch, nothing is written.
func (p *postgres) reading(batch string) string {
	return fmt.Sprintf(`WITH batch AS MATERIALIZED (%s),
flight AS (UPDATE %s SET flight_from = (SELECT min(seq) FROM batch), flight_to = (SELECT max(seq) FROM batch)
	WHERE epoch = $1::bigint AND EXISTS (SELECT FROM batch) AND set_config('synchronous_commit', 'off', true) <> '')
SELECT seq, shard, attempts, crashes, id::text, aggregate_type, aggregate_id, type, payload, content_type, headers::text, occurred_at, dedup_key, schema_version, behind,
	(SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint), (SELECT pg_current_xact_id()::text::bigint)
FROM batch`, batch, p.relays)
}

// readyBatch goes from shard to shard, each time beginning with another one, and stops when the batch is full. Within a
// shard the index gives the order. The limits are written out, and there are few: of parameters the planner would expect a
// tenth of the table, and have that compiled.
func (p *postgres) readyBatch(q reading, shards, condition string) string {
	return fmt.Sprintf(`
	SELECT e.* FROM (SELECT * FROM %[1]s WHERE epoch = $1::bigint AND %[2]s ORDER BY shard < $2::int, shard) s
	CROSS JOIN LATERAL (SELECT %[3]s, $3::boolean AND EXISTS (SELECT FROM %[4]s w WHERE %[5]s) AS behind
		FROM %[4]s e WHERE shard = s.shard AND %[6]s%[7]s ORDER BY seq LIMIT %[8]d) e
	LIMIT %[9]d`, p.shards, shards, rowColumns, p.outbox, waitsBefore, isPending, condition, q.perTurn, q.limit)
}

// nextBatch finds what comes next in all shards by the index, a batch of each at most, whatever the planner knows of the table.
func (p *postgres) nextBatch(q reading) string {
	return fmt.Sprintf(`
	SELECT %[1]s, $2::boolean AND EXISTS (SELECT FROM %[2]s w WHERE %[3]s) AS behind
	FROM (SELECT k.seq FROM %[4]s s CROSS JOIN LATERAL (SELECT seq FROM %[2]s WHERE shard = s.shard AND %[5]s AND seq > $3::bigint AND seq <= $4::bigint ORDER BY seq LIMIT %[7]d) k
		WHERE s.epoch = $1::bigint AND %[6]s ORDER BY k.seq LIMIT %[7]d) k
	JOIN %[2]s e USING (seq) ORDER BY seq`, rowColumns, p.outbox, waitsBefore, p.shards, isPending, trusted, q.limit)
}

// dueBatch finds the failed events whose time has come, and with each those behind it. now() is the statement's time, which
// an index can be searched for.
func (p *postgres) dueBatch(shards, condition string) string {
	return fmt.Sprintf(`
	SELECT e.* FROM (
		SELECT d.seq, d.aggregate_type, d.aggregate_id FROM (SELECT * FROM %[1]s WHERE epoch = $1::bigint AND %[2]s ORDER BY shard < $4::int, shard) s
		CROSS JOIN LATERAL (SELECT * FROM %[4]s WHERE shard = s.shard AND next_attempt_at <= now()%[5]s ORDER BY next_attempt_at LIMIT greatest($2::int / 8, 1)) d
		ORDER BY d.next_attempt_at LIMIT $2::int) head
	CROSS JOIN LATERAL (SELECT %[3]s, false AS behind FROM %[4]s w
		WHERE w.next_attempt_at IS NOT NULL AND w.aggregate_type = head.aggregate_type AND w.aggregate_id = head.aggregate_id AND w.seq >= head.seq
		ORDER BY seq LIMIT $3::int) e
	LIMIT $2::int`, p.shards, shards, rowColumns, p.outbox, condition)
}

func (p *postgres) read(ctx context.Context, epoch int64, q reading) ([]row, error) {
	var query string
	var args []any
	switch q.lane {
	case ready:
		query = p.reading(p.readyBatch(q, trusted, ""))
		args = []any{epoch, q.from, q.ordered}
	case next:
		query = p.reading(p.nextBatch(q))
		args = []any{epoch, q.ordered, q.after, q.until}
	case suspect:
		query = p.reading(p.readyBatch(q, suspected, inSuspect))
		args = []any{epoch, q.from, q.ordered}
	default:
		query = p.dues[q.lane]
		args = []any{epoch, q.limit, q.perTurn, q.from}
	}
	rows, err := p.Query(ctx, query, args...)
	return collect(rows, p.dialect, err)
}

// marking is one statement, which writes only if the epoch's lease is there, and holds that: whoever ends it waits. A lease's
// shards are its own until its relay, which marks before it does anything else, gives them away.
func (p *postgres) marking(all bool) string {
	owned := "EXISTS (SELECT FROM landed) AND published_at IS NULL"
	done := fmt.Sprintf("UPDATE %s SET published_at = clock_timestamp(), dead_at = NULL, next_attempt_at = NULL WHERE seq = ANY ($2::text::bigint[]) AND %s", p.outbox, owned)
	if p.cfg.Retention == DeleteOnPublish {
		done = fmt.Sprintf("DELETE FROM %s WHERE seq = ANY ($2::text::bigint[]) AND %s", p.outbox, owned)
	}
	rest := ""
	if all {
		rest = fmt.Sprintf(`,
failed AS (UPDATE %[1]s e SET attempts = e.attempts + f.counted, last_error = f.error, dead_at = CASE WHEN f.dead THEN clock_timestamp() END,
		next_attempt_at = CASE WHEN NOT f.dead THEN clock_timestamp() + make_interval(secs => f.delay) END
	FROM json_to_recordset($3::text::json) AS f (seq bigint, counted int, error text, dead boolean, delay double precision) WHERE e.seq = f.seq AND %[2]s),
held AS (UPDATE %[1]s SET next_attempt_at = 'infinity' WHERE seq = ANY ($4::text::bigint[]) AND next_attempt_at IS NULL AND %[2]s),
promoted AS (UPDATE %[1]s SET next_attempt_at = clock_timestamp() WHERE %[2]s AND seq IN (
	SELECT (SELECT w.seq FROM %[1]s w WHERE w.next_attempt_at IS NOT NULL AND w.aggregate_type = a.aggregate_type AND w.aggregate_id = a.aggregate_id
		AND w.seq > a.seq ORDER BY w.seq LIMIT 1)
	FROM json_to_recordset($5::text::json) AS a (aggregate_type text, aggregate_id text, seq bigint)))`, p.outbox, owned)
	}
	return fmt.Sprintf(`WITH landed AS (UPDATE %s SET flight_from = NULL, flight_to = NULL WHERE epoch = $1::bigint RETURNING epoch),
published AS (%s)%s
SELECT count(*) FROM landed`, p.relays, done, rest)
}

func (p *postgres) mark(ctx context.Context, epoch int64, o *outcome) (bool, error) {
	query, args := p.markPublished, []any{epoch, numbers(p.dialect, o.published)}
	if len(o.failed)+len(o.held)+len(o.promoted) > 0 {
		failed, promoted, err := o.json()
		if err != nil {
			return false, err
		}
		query, args = p.markAll, append(args, failed, numbers(p.dialect, o.held), promoted)
	}
	var alive int
	err := p.QueryRow(ctx, query, args...).Scan(&alive)
	return alive == 1, err
}

// reapStatement deletes expired leases. The lock that a DELETE takes makes a renewal and a takeover wait for one another, and each
// looks again afterwards, so that only one of them happens.
func (p *postgres) reapStatement() string {
	return fmt.Sprintf(`WITH gone AS (DELETE FROM %[1]s WHERE expires_at < clock_timestamp() RETURNING epoch, name, flight_from, flight_to),
freed AS (UPDATE %[2]s s SET epoch = NULL, suspect_from = coalesce(s.suspect_from, g.flight_from),
		suspect_to = CASE WHEN s.suspect_from IS NULL THEN g.flight_to ELSE s.suspect_to END
	FROM gone g WHERE s.epoch = g.epoch),
counted AS (UPDATE %[3]s e SET attempts = e.attempts + 1, crashes = e.crashes + 1, last_error = '%[4]s',
		dead_at = CASE WHEN e.crashes + 1 >= $1::int THEN clock_timestamp() END,
		next_attempt_at = CASE WHEN e.crashes + 1 < $1::int THEN clock_timestamp() + make_interval(secs => $2::double precision * 2 ^ e.crashes) END
	FROM gone g WHERE g.flight_from = g.flight_to AND e.seq = g.flight_from AND e.published_at IS NULL AND e.dead_at IS NULL)
SELECT name FROM gone`, p.relays, p.shards, p.outbox, died)
}

func (p *postgres) reap(ctx context.Context) ([]string, error) {
	rows, err := p.Query(ctx, p.reaping, p.cfg.MaxCrashes, p.cfg.MinBackoff.Seconds())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	_, err = p.Exec(ctx, p.orphanShards())
	return names, err
}

func (p *postgres) nextDue(ctx context.Context, epoch int64) (time.Duration, bool, error) {
	var seconds float64
	var n int
	err := p.QueryRow(ctx, p.dueing, epoch).Scan(&seconds, &n)
	return time.Duration(max(0, seconds) * float64(time.Second)), n > 0, err
}
