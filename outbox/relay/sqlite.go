package relay

import "fmt"

// sqliteReading is postgresReading where seq is the order of commits: nothing is ever late.
func (s *store) sqliteReading() string {
	parked := func(condition string) string {
		return fmt.Sprintf("EXISTS (SELECT 1 FROM %s p WHERE p.subscription = c.subscription AND p.partition = c.partition AND %s)", s.parked, condition)
	}
	mine := "c.subscription = ?1 AND c.owner = ?2 AND c.partition IN (SELECT value FROM json_each(?3))"
	boolean := func(condition string) string { return "json(CASE WHEN " + condition + " THEN 'true' ELSE 'false' END)" }
	return fmt.Sprintf(`SELECT 0, c.partition, c.position, '', '', '', '', '', NULL, NULL, NULL, 0, 0, CAST(json_object('partition', c.partition, 'incarnation', 'the only one', 'token', c.token, 'position', c.position,
	'prior', c.position, 'placements', c.placements, 'careful', c.careful, 'batch', c.batch, 'waiting', %[4]s, 'blocked', %[5]s, 'relays', (SELECT count(*) FROM %[10]s r WHERE r.subscription = c.subscription)) AS BLOB), 0, 0, 0%[11]s
FROM %[1]s c WHERE %[3]s
UNION ALL
SELECT 2, %[6]s, 0, %[7]s, %[8]s OR NOT %[9]s%[12]s
FROM %[1]s c CROSS JOIN %[2]s e WHERE %[3]s AND c.placements = 0
	AND e.seq IN (SELECT f.seq FROM %[2]s f WHERE f.partition = c.partition AND f.seq > c.position ORDER BY f.seq LIMIT ?4)`,
		s.cursors, s.events, mine, boolean(parked("p.dead_at IS NULL")), boolean("c.blocked_since IS NOT NULL"), s.columns(s.matches),
		parked("p.aggregate_type = e.aggregate_type AND p.aggregate_id = e.aggregate_id AND p.dead_at IS NULL AND p.seq < e.seq"), parked("p.seq = e.seq"), s.matches, s.relays, s.ageColumn("NULL"), s.ageColumn(s.age("e.created_at")))
}

// sqliteDue reads parked events. An aggregate's lowest is its head, and only heads go out: computed, not stored, so that a
// retry that succeeds meanwhile strands nobody. With a head come those behind it. Of suspects it is one.
func (s *store) sqliteDue() string {
	partitions := fmt.Sprintf("IN (SELECT c.partition FROM %s c WHERE c.subscription = CAST($1 AS text) AND c.owner = %s AND c.careful = CASE WHEN CAST($5 AS boolean) THEN 2 ELSE 0 END)",
		s.cursors, s.uuid("CAST($2 AS text)"))
	earlier := s.earlier("h.subscription, h.partition, h.aggregate_type, h.aggregate_id", "h.seq")
	run := fmt.Sprintf(`IN (SELECT r.seq FROM %s r WHERE r.subscription = h.subscription AND r.partition = h.partition AND r.aggregate_type = h.aggregate_type
		AND r.aggregate_id = h.aggregate_id AND r.dead_at IS NULL AND r.seq >= h.seq ORDER BY r.subscription, r.partition, r.aggregate_type, r.aggregate_id, r.seq LIMIT CAST($4 AS bigint))`, s.parked)
	heads := func(condition, order string) string {
		return fmt.Sprintf(`SELECT h.subscription, h.partition, h.aggregate_type, h.aggregate_id, h.seq FROM %s h
		WHERE h.subscription = CAST($1 AS text) AND h.partition %s AND h.dead_at IS NULL AND %s AND (CAST($6 AS boolean) OR NOT %s) ORDER BY %s LIMIT CAST($3 AS bigint)`,
			s.parked, partitions, condition, earlier, order)
	}
	return fmt.Sprintf(`WITH endstate_due AS (%s), endstate_suspect AS (%s),
endstate_head AS (SELECT * FROM endstate_due WHERE NOT CAST($5 AS boolean) UNION ALL SELECT * FROM endstate_suspect WHERE CAST($5 AS boolean))
SELECT 3, %s, 0, 0, 0, %s, p.attempts, p.crashes
FROM endstate_head h CROSS JOIN %[5]s p JOIN %[6]s e ON e.partition = p.partition AND e.seq = p.seq
WHERE p.subscription = h.subscription AND p.partition = h.partition AND p.seq %[7]s ORDER BY e.seq`,
		heads("h.next_attempt_at <= "+s.clock(), "h.next_attempt_at"), heads("h.suspect", "h.seq"), s.columns("true"), s.age("e.created_at"), s.parked, s.events, run)
}
