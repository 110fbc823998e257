package sqlplan

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Table is a table that a finalization writes to.
type Table struct {
	Schema string // empty: any schema's, since connections may differ in their search path
	Name   string
	Insert bool     // it is inserted into; else it is updated
	Known  string   // a trigger of the library's, which changes nothing
	Sets   []string // the columns that an update sets
}

// Watch is what a statement's RETURNING doesn't see of what becomes of its rows.
type Watch struct {
	Again bool // look again at the end of the transaction: triggers may have changed a row after it was returned
	Many  bool // the same where many rows are written at a time: the BEFORE trigger of one may have changed another
	// Apart: a rule rewrites a statement, which can't be part of a WITH then; a view's trigger replaces an update, which then doesn't look
	// at its row again after waiting for it; or an event may not be inserted.
	Apart bool
}

// Look asks the catalog about the tables, in the order in which a finalization writes to them. What a BEFORE trigger makes of
// a row is returned, if nothing is written after it; else it may change what was written before, and that of an event may keep
// it out. Rows of a partitioned table may move, which is a DELETE and an INSERT.
func Look(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, tables []Table) (Watch, error) {
	var w Watch
	for i, t := range tables {
		var after, before, rules bool
		event := "UPDATE"
		if t.Insert {
			event = "INSERT"
		}
		if err := q.QueryRow(ctx, watch, t.Schema, t.Name, t.Known, event, arrayText(t.Sets)).Scan(&after, &before, &rules); err != nil {
			return Watch{}, err
		}
		w.Again = w.Again || after || rules || before && i > 0
		w.Many = w.Many || w.Again || before
		w.Apart = w.Apart || rules || before && event == "INSERT"
	}
	return w, nil
}

// watch knows triggers by tgtype's bits: 2 is BEFORE, 64 INSTEAD OF, 4 INSERT, 8 DELETE, 16 UPDATE. Those that PostgreSQL
// made for constraints don't change rows of the table that is written; but a foreign key on a column that is set may change
// those of a table with triggers of its own. A view's rows, and a foreign table's, are subject to triggers elsewhere.
const watch = `WITH RECURSIVE endstate_tables AS (
	SELECT c.oid, c.relkind, c.relispartition FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relname = $2::text AND (n.nspname = $1::text OR $1::text = '') AND c.relkind IN ('r', 'p', 'v', 'f')
	UNION SELECT c.oid, c.relkind, c.relispartition FROM endstate_tables t CROSS JOIN LATERAL (
		SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = t.oid
		UNION ALL SELECT d.refobjid FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d ON d.objid = r.oid
		WHERE t.relkind = 'v' AND r.ev_class = t.oid AND d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass) below
	JOIN pg_catalog.pg_class c ON c.oid = below.inhrelid),
endstate_triggers AS (
	SELECT g.tgtype FROM endstate_tables t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid
	WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgname <> $3::text
	AND g.tgtype::int4 & CASE WHEN t.relkind = 'p' OR t.relispartition THEN 28 WHEN $4::text = 'INSERT' THEN 4 ELSE 16 END <> 0)
SELECT EXISTS (SELECT FROM endstate_triggers WHERE tgtype::int4 & 2 = 0) OR EXISTS (SELECT FROM endstate_tables WHERE relkind IN ('v', 'f'))
	OR EXISTS (SELECT FROM endstate_tables t JOIN pg_catalog.pg_constraint k ON k.confrelid = t.oid AND k.contype = 'f' AND k.confupdtype IN ('c', 'n', 'd')
		JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY (k.confkey) WHERE a.attname = ANY ($5::text[])),
	EXISTS (SELECT FROM endstate_triggers WHERE tgtype::int4 & 66 <> 0),
	EXISTS (SELECT FROM endstate_tables t JOIN pg_catalog.pg_rewrite r ON r.ev_class = t.oid WHERE r.ev_type <> '1' AND r.ev_enabled <> 'D')
	OR EXISTS (SELECT FROM endstate_triggers WHERE tgtype::int4 & 64 <> 0)`
