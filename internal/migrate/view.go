package migrate

import (
	"context"
	"encoding/json"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Kind is what a table is, where that isn't just a table.
type Kind string

// The kinds that Check tells apart.
const (
	Plain        Kind = ""
	ViewKind     Kind = "view"
	Materialized Kind = "materialized"
	Foreign      Kind = "foreign"
	Unlogged     Kind = "unlogged"
	Inherited    Kind = "inherited" // tables that are no partitions inherit from it
)

// KindOf says what a table is that is there.
func KindOf(ctx context.Context, q endstate.Querier, schema, table string) (kind Kind, err error) {
	query := `SELECT CASE WHEN relkind = 'v' THEN 'view' WHEN relkind = 'm' THEN 'materialized' WHEN relkind = 'f' THEN 'foreign' WHEN relpersistence = 'u' THEN 'unlogged'
	WHEN relkind <> 'p' AND EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent = c.oid) THEN 'inherited' ELSE '' END
FROM pg_catalog.pg_class AS c WHERE c.oid = to_regclass($1::text)`
	name := sqltx.Quote(schema, table)
	if sqltx.Of(q) == sqltx.SQLite {
		query, name = `SELECT CASE WHEN EXISTS (SELECT 1 FROM pragma_table_list(?1) WHERE type = 'view' AND schema = `+schemaOr(schema)+`) THEN 'view' ELSE '' END`, table
	}
	err = q.QueryRow(ctx, query, name).Scan(&kind)
	return kind, err
}

// Generated returns the generated columns of a table on SQLite.
func Generated(ctx context.Context, q endstate.Querier, schema, table string) ([]string, error) {
	return Strings(ctx, q, "SELECT name FROM pragma_table_xinfo(?1, "+schemaOr(schema)+") WHERE hidden IN (2, 3)", table)
}

// View is what PostgreSQL's catalog says of a view.
type View struct {
	Fixed   []string // of the columns that were asked for, those that an UPDATE of the view can't set
	Renamed bool     // a key column has another name in what the view is made of
	Tables  []Name   // those that its rows come from, or are looked up in
}

// Name is a table's name with its schema.
type Name struct{ Schema, Table string }

// endstateView is a view, and what it is made of, by their oids.
const endstateView = `WITH RECURSIVE endstate_view AS (
	SELECT to_regclass($1::text)::oid AS oid
	UNION SELECT d.refobjid FROM endstate_view AS v
	JOIN pg_catalog.pg_class AS c ON c.oid = v.oid AND c.relkind = 'v'
	JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = v.oid AND r.ev_type = '1'
	JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass)
`

// LookAtView looks at a view, and at those that it is made of, and says which of the columns it can't update. PostgreSQL only.
func LookAtView(ctx context.Context, q endstate.Querier, schema, table string, keys, update []string) (*View, error) {
	name := sqltx.Quote(schema, table)
	columns, err := json.Marshal(update)
	if err != nil {
		return nil, err
	}
	same, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	var v View
	// Where a column comes from, a rule has in its tree only.
	if err := q.QueryRow(ctx, endstateView+`SELECT EXISTS (SELECT FROM endstate_view AS v JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = v.oid AND r.ev_type = '1'
CROSS JOIN LATERAL regexp_matches(CAST(r.ev_action AS text), ':resno ([0-9]+) :resname [^:]+ :ressortgroupref [0-9]+ :resorigtbl ([0-9]+) :resorigcol ([0-9]+)', 'g') AS m
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = v.oid AND a.attnum = CAST(m[1] AS int2)
LEFT JOIN pg_catalog.pg_attribute AS o ON o.attrelid = CAST(m[2] AS oid) AND o.attnum = CAST(m[3] AS int2)
WHERE CAST(a.attname AS text) IN (SELECT json_array_elements_text($2::text::json)) AND a.attname IS DISTINCT FROM o.attname)`, name, string(same)).Scan(&v.Renamed); err != nil {
		return nil, err
	}
	if v.Fixed, err = Strings(ctx, q, `SELECT CAST(a.attname AS text) FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = to_regclass($1::text) AND CAST(a.attname AS text) IN (SELECT json_array_elements_text($2::text::json))
	AND NOT pg_column_is_updatable(a.attrelid, a.attnum, false) ORDER BY 1`, name, string(columns)); err != nil {
		return nil, err
	}
	rows, err := q.Query(ctx, endstateView+`SELECT CAST(n.nspname AS text), CAST(c.relname AS text) FROM endstate_view AS v JOIN pg_catalog.pg_class AS c ON c.oid = v.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind <> 'v' ORDER BY 1, 2`, name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var t Name
		if err := rows.Scan(&t.Schema, &t.Table); err != nil {
			return nil, err
		}
		v.Tables = append(v.Tables, t)
	}
	rows.Close()
	return &v, rows.Err()
}
