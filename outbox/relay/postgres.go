package relay

import (
	"fmt"
	"strings"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// incarnated is the id of this incarnation of the database, NULL if it has none yet, an expression. What was copied, by a dump
// or as a template, has other oids.
func (s *store) incarnated() string {
	return s.either(fmt.Sprintf(`(SELECT id FROM %s WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND relation = %s::regclass)`,
		s.incarnation, sqltx.Literal(s.incarnation)), "''")
}

// columns are those of an event in a reading, behind its kind: see collect. Payloads beyond inline are left out.
func (s *store) columns(matches string) string {
	id, headers, at := "e.id", "e.headers", s.times("e.occurred_at")
	if !s.sqlite() && s.pool == nil {
		id, headers = "e.id::text", "e.headers::text"
	}
	return fmt.Sprintf(`e.partition, e.seq, %s, e.aggregate_type, e.aggregate_id, e.type, e.content_type, %s, %s, e.dedup_key, e.schema_version, %s,
	CASE WHEN %[4]s <= %[5]d AND %[6]s THEN e.payload END`, id, headers, at, s.either("octet_length(e.payload)", "length(e.payload)"), inline, matches)
}

// times has an event's times among columns be NULL where they are none that Go has: a driver of database/sql may fail at one.
func (s *store) times(columns string) string {
	if s.sqlite() || s.pool != nil {
		return columns
	}
	for _, column := range []string{"e.occurred_at", "e.created_at"} {
		columns = strings.ReplaceAll(columns, column, fmt.Sprintf("CASE WHEN %[1]s >= '0001-01-01 00:00:00+00' AND %[1]s < '10000-01-01 00:00:00+00' THEN %[1]s END", column))
	}
	return columns
}

// age is the column of an event's age, where somebody wants to know.
func (s *store) ageColumn(of string) string {
	if s.cfg.Trace.Published == nil {
		return ""
	}
	return ", " + of
}

// postgresReading reads cursors and rows in one statement, and so in one snapshot, which it returns with each cursor. See the
// package's documentation for why it finds every row. What it does not do matters as much: it neither writes nor locks, so that
// the transaction of the move takes its id after this snapshot.
func (s *store) postgresReading() string {
	parked := func(condition string) string {
		return fmt.Sprintf("EXISTS (SELECT FROM %s p WHERE p.subscription = c.subscription AND p.partition = c.partition AND %s)", s.parked, condition)
	}
	// Not EXISTS, which may also be answered from a list of all that is parked.
	there := fmt.Sprintf("(SELECT true FROM %s p WHERE p.subscription = c.subscription AND p.partition = c.partition AND p.seq = e.seq LIMIT 1) IS NOT NULL", s.parked)
	event := func(foreign, passed string) string {
		return fmt.Sprintf("%s, %s, c.waiting AND %s, %s OR NOT %s%s", s.columns(s.matches), foreign,
			s.earlier("c.subscription, c.partition, e.aggregate_type, e.aggregate_id", "e.seq"), passed, s.matches, s.ageColumn(s.age("e.created_at")))
	}
	none := "'', '', '', '', '', NULL, NULL::timestamptz"
	if s.pool != nil {
		none = "'00000000-0000-0000-0000-000000000000'::uuid, '', '', '', '', NULL::jsonb, NULL::timestamptz"
	}
	const place, cursorPlace = "((e.partition::bigint << 56) + e.seq)", "(c.partition::bigint << 56)"
	return fmt.Sprintf(`WITH endstate_cursor AS MATERIALIZED (
	SELECT c.*, pg_current_snapshot() AS now, pg_snapshot_xmin(pg_current_snapshot()) AS past, %[6]s AS waiting, %[7]s AS beyond, greatest(c.restored_through, c.late_through) AS low,
		coalesce(c.late_snapshot, pg_current_snapshot()) AS until
	FROM %[1]s c WHERE c.subscription = $1::text AND c.owner = $2::text::uuid AND c.partition = ANY (translate($3::text, '[]', '{}')::smallint[]))
SELECT 0::smallint, c.partition, c.position, %[8]s, NULL, 0, 0, convert_to(json_build_object('partition', c.partition, 'token', c.token,
	'position', c.position, 'prior', c.prior_position, 'now', c.now::text, 'incarnation', %[3]s, 'pieces', c.late_snapshot IS NOT NULL, 'restored', c.restored, 'placements', c.placements,
	'careful', c.careful, 'batch', c.batch, 'waiting', c.waiting, 'blocked', c.blocked_since IS NOT NULL, 'relays', (SELECT count(*) FROM %[5]s r WHERE r.subscription = c.subscription),
	'assigned', pg_current_xact_id_if_assigned() IS NOT NULL)::text, 'UTF8'), false, false, false%[4]s
FROM endstate_cursor c
UNION ALL
SELECT 1::smallint, %[9]s FROM endstate_cursor c CROSS JOIN LATERAL (
	SELECT e.* FROM (
		(SELECT e.* FROM pg_snapshot_xip(c.snapshot) endstate_open CROSS JOIN LATERAL (
			SELECT * FROM %[2]s e WHERE e.txid = endstate_open AND %[11]s > %[12]s + c.low AND %[11]s <= %[12]s + c.position
			ORDER BY e.txid, %[11]s LIMIT $4::bigint) e
		WHERE c.restored OR pg_visible_in_snapshot(endstate_open, c.until))
		UNION ALL
		(SELECT e.* FROM %[2]s e WHERE e.partition = c.partition AND e.seq > greatest(c.prior_position, c.low) AND e.seq <= c.position
			AND e.txid >= pg_snapshot_xmax(c.snapshot) AND (c.restored OR pg_visible_in_snapshot(e.txid, c.until))
		ORDER BY e.partition, e.seq LIMIT $4::bigint)) e
	WHERE c.placements = 0 ORDER BY e.seq LIMIT $4::bigint) e
UNION ALL
SELECT 2::smallint, %[10]s FROM endstate_cursor c CROSS JOIN LATERAL (
	SELECT e.* FROM %[2]s e WHERE e.partition = c.partition AND e.seq > c.position AND c.late_snapshot IS NULL AND c.placements = 0
	ORDER BY e.partition, e.seq LIMIT $4::bigint) e`,
		s.cursors, s.events, s.incarnated(), s.ageColumn("NULL::double precision"), s.relays, parked("p.dead_at IS NULL"), parked("p.seq > c.position"), none,
		event("false", there), event("e.txid >= c.past AND NOT pg_visible_in_snapshot(e.txid, c.now)", "c.beyond AND "+there), place, cursorPlace)
}

// earlier reports whether an earlier event of an aggregate is parked and not dead. Only one index has this order, so that no statistics
// can lead to another one, in which there may be a million rows to look through; and without an upper bound the first row ends the
// search, where PostgreSQL would look on to the subscription's last one.
func (s *store) earlier(aggregate, seq string) string {
	const order = "w.subscription, w.partition, w.aggregate_type, w.aggregate_id"
	return fmt.Sprintf("coalesce((SELECT (%[2]s) = (%[3]s) AND w.seq < %[4]s FROM (SELECT w.* FROM %[1]s w WHERE (%[2]s, w.seq) >= (%[3]s, 0) AND w.dead_at IS NULL ORDER BY %[2]s, w.seq LIMIT 1) w), false)", s.parked, order, aggregate, seq)
}

// postgresDue reads parked events: heads and what is behind them, as sqliteDue does. Of each partition come as many heads as of all, since only so one index has
// them in their order.
func (s *store) postgresDue() string {
	const order, aggregate = "r.subscription, r.partition, r.aggregate_type, r.aggregate_id", "h.subscription, h.partition, h.aggregate_type, h.aggregate_id"
	heads := func(condition, order string) string {
		return fmt.Sprintf(`SELECT h.* FROM %s c CROSS JOIN LATERAL (
		SELECT h.* FROM %s h WHERE h.subscription = c.subscription AND h.partition = c.partition AND h.dead_at IS NULL AND %s AND ($6::boolean OR NOT %s)
		ORDER BY h.subscription, h.partition, %s LIMIT $3::bigint) h
	WHERE c.subscription = $1::text AND c.owner = $2::text::uuid AND c.careful = CASE WHEN $5::boolean THEN 2 ELSE 0 END ORDER BY %[5]s LIMIT $3::bigint`,
			s.cursors, s.parked, condition, s.earlier(aggregate, "h.seq"), order)
	}
	return fmt.Sprintf(`WITH endstate_due AS MATERIALIZED (%s), endstate_suspect AS MATERIALIZED (%s),
endstate_head AS (SELECT * FROM endstate_due WHERE NOT $5::boolean UNION ALL SELECT * FROM endstate_suspect WHERE $5::boolean)
SELECT 3::smallint, %s, false, false, false, %[4]s, p.attempts, p.crashes
FROM endstate_head h CROSS JOIN LATERAL (
	SELECT * FROM (SELECT r.* FROM %[5]s r WHERE (%[7]s, r.seq) >= (%[8]s, h.seq) AND r.dead_at IS NULL ORDER BY %[7]s, r.seq LIMIT $4::bigint) r
	WHERE (%[7]s) = (%[8]s)) p
CROSS JOIN LATERAL (SELECT * FROM %[6]s e WHERE e.partition = p.partition AND e.seq = p.seq LIMIT 1) e ORDER BY e.seq`,
		heads("h.next_attempt_at <= now()", "h.next_attempt_at"), heads("h.suspect", "h.seq"), s.columns("true"), s.age("e.created_at"), s.parked, s.events, order, aggregate)
}
