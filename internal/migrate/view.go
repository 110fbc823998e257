package migrate

import (
	"context"
	"encoding/json"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// View is what PostgreSQL's catalog says of a view.
type View struct {
	Fixed  []string // of the columns that were asked for, those that an UPDATE of the view can't set
	Tables []Name   // those that its rows come from, or are looked up in
}

// Name is a table's name with its schema.
type Name struct{ Schema, Table string }

// LookAtView looks at a view, and at those that it is made of, and says which of the columns it can't update; nil if it is no
// view. PostgreSQL only.
func LookAtView(ctx context.Context, q endstate.Querier, schema, table string, update []string) (*View, error) {
	name := sqltx.Quote(schema, table)
	var isView bool
	if err := q.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = to_regclass($1::text) AND relkind = 'v')", name).Scan(&isView); err != nil || !isView {
		return nil, err
	}
	columns, err := json.Marshal(update)
	if err != nil {
		return nil, err
	}
	var v View
	if v.Fixed, err = Strings(ctx, q, `SELECT CAST(a.attname AS text) FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = to_regclass($1::text) AND CAST(a.attname AS text) IN (SELECT json_array_elements_text($2::text::json))
	AND NOT pg_column_is_updatable(a.attrelid, a.attnum, false) ORDER BY 1`, name, string(columns)); err != nil {
		return nil, err
	}
	rows, err := q.Query(ctx, `WITH RECURSIVE endstate_view AS (
	SELECT to_regclass($1::text)::oid AS oid
	UNION SELECT d.refobjid FROM endstate_view AS v
	JOIN pg_catalog.pg_class AS c ON c.oid = v.oid AND c.relkind = 'v'
	JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = v.oid
	JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass)
SELECT CAST(n.nspname AS text), CAST(c.relname AS text) FROM endstate_view AS v JOIN pg_catalog.pg_class AS c ON c.oid = v.oid
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
