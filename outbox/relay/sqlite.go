package relay

import "fmt"

// sqliteReading is postgresReading where seq is the order of commits: nothing is ever late.
func (s *store) sqliteReading() string {
	const matches = "(?5 IS NULL OR EXISTS (SELECT 1 FROM json_each(?5) endstate_type WHERE e.type GLOB endstate_type.value))"
	parked := func(condition string) string {
		return fmt.Sprintf("EXISTS (SELECT 1 FROM %s p WHERE p.subscription = c.subscription AND p.partition = c.partition AND %s)", s.parked, condition)
	}
	mine := "c.subscription = ?1 AND c.owner = ?2 AND c.partition IN (SELECT value FROM json_each(?3))"
	boolean := func(condition string) string { return "json(CASE WHEN " + condition + " THEN 'true' ELSE 'false' END)" }
	return fmt.Sprintf(`SELECT 0, c.partition, c.position, '', '', '', '', '', NULL, NULL, '', 0, 0, CAST(json_object('partition', c.partition, 'token', c.token, 'position', c.position,
	'prior', c.position, 'placements', c.placements, 'careful', c.careful, 'batch', c.batch, 'waiting', %[4]s, 'blocked', %[5]s) AS BLOB), 0, 0, 0, 0, 0
FROM %[1]s c WHERE %[3]s
UNION ALL
SELECT 2, %[6]s, 0, %[7]s, %[8]s OR NOT %[9]s, 0, 0
FROM %[1]s c CROSS JOIN %[2]s e WHERE %[3]s AND c.placements = 0
	AND e.seq IN (SELECT f.seq FROM %[2]s f WHERE f.partition = c.partition AND f.seq > c.position ORDER BY f.seq LIMIT ?4)`,
		s.cursors, s.events, mine, boolean(parked("p.dead_at IS NULL")), boolean("c.blocked_since IS NOT NULL"), s.columns(matches),
		parked("p.aggregate_type = e.aggregate_type AND p.aggregate_id = e.aggregate_id AND p.dead_at IS NULL AND p.seq < e.seq"), parked("p.seq = e.seq"), matches)
}

// sqliteEnding is postgresEnding.
func (s *store) sqliteEnding() string {
	return fmt.Sprintf(`SELECT c.partition, c.token, c.position, '', '', coalesce(
	(SELECT e.seq FROM %[2]s e WHERE e.partition = c.partition AND (s.start IN ('begin', 'end') OR julianday(e.created_at) < julianday(s.start)) ORDER BY e.seq DESC LIMIT 1), 0)
FROM %[1]s c JOIN %[3]s s ON s.name = c.subscription WHERE c.subscription = ?1 AND c.owner = ?2 AND c.placements > 0`, s.cursors, s.events, s.subscriptions)
}
