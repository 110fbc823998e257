package migrate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// copies are the tables as they are now.
func (s *structure) copies() []table {
	list := make([]table, len(s.tables))
	for i, t := range s.tables {
		list[i] = *t
	}
	return list
}

// without is what t has beyond an earlier state of it, or nil.
func (t *table) without(earlier table) *table {
	added := &table{schema: t.schema, name: t.name, columns: t.columns[len(earlier.columns):], indexes: t.indexes[len(earlier.indexes):]}
	if len(added.columns)+len(added.indexes) == 0 {
		return nil
	}
	return added
}

func (t *table) names() []string {
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = c.name
	}
	return names
}

// lacks says what of s the database doesn't have.
func (s *structure) lacks(ctx context.Context, q endstate.Querier) (lacks []error, err error) {
	for _, t := range s.tables {
		its, err := t.lacks(ctx, q)
		if err != nil {
			return nil, err
		}
		lacks = append(lacks, its...)
	}
	for _, name := range s.functions {
		var exists bool
		if err := q.QueryRow(ctx, "SELECT to_regproc($1::text) IS NOT NULL", name).Scan(&exists); err != nil {
			return nil, err
		}
		if !exists {
			lacks = append(lacks, fmt.Errorf("function %s does not exist", name))
		}
	}
	return lacks, nil
}

func (t *table) lacks(ctx context.Context, q endstate.Querier) (lacks []error, err error) {
	have, err := look(ctx, q, t)
	if err != nil {
		return nil, err
	}
	if len(have.columns) == 0 {
		return []error{absent(ctx, q, t.schema, t.name)}, nil
	}
	for _, want := range t.columns {
		i := slices.IndexFunc(have.columns, func(c column) bool { return c.name == want.name })
		switch {
		case i < 0:
			lacks = append(lacks, fmt.Errorf("table %s has no column %s", t.quoted(), sqltx.Quote("", want.name)))
		case canonical(have.columns[i].kind) != canonical(want.kind):
			lacks = append(lacks, fmt.Errorf("column %s of table %s is of type %s, and must be %s", sqltx.Quote("", want.name), t.quoted(), strings.ToLower(have.columns[i].kind), strings.ToLower(want.kind)))
		case want.notNull && !have.columns[i].notNull:
			lacks = append(lacks, fmt.Errorf("column %s of table %s must be NOT NULL", sqltx.Quote("", want.name), t.quoted()))
		}
	}
	for _, want := range t.indexes {
		if slices.ContainsFunc(have.indexes, want.isServedBy) {
			continue
		}
		kind := "index"
		switch {
		case want.unique && !want.partial:
			kind = "unique index over all of its rows"
		case want.unique:
			kind = "unique index"
		}
		lacks = append(lacks, fmt.Errorf("table %s has no %s on (%s)", t.quoted(), kind, strings.ReplaceAll(strings.Join(want.columns, ", "), expression, "(…)")))
	}
	return lacks, nil
}

// isServedBy reports whether another index does what x is for.
func (x index) isServedBy(have index) bool {
	if have.partial && !x.partial {
		return false
	}
	if (have.partial || slices.Contains(x.columns, expression)) && have.name != x.name { // which rows, or what of them, goes by its name
		return false
	}
	if x.unique {
		// Unique over fewer columns is unique over these.
		return have.unique && len(have.columns) > 0 && !slices.ContainsFunc(have.columns, func(c string) bool { return !slices.Contains(x.columns, c) })
	}
	return len(have.columns) >= len(x.columns) && slices.Equal(have.columns[:len(x.columns)], x.columns)
}

// expression stands for one among an index's columns.
const expression = "("

// canonical is a type by the name that the databases' catalogs give it.
func canonical(kind string) string {
	kind = strings.ToLower(kind)
	if long, ok := map[string]string{"timestamptz": "timestamp with time zone", "int": "integer", "int4": "integer", "int8": "bigint",
		"int2": "smallint", "bool": "boolean", "float8": "double precision", "float4": "real"}[kind]; ok {
		return long
	}
	return kind
}

// look returns a table as the database has it; no columns: not at all. Indexes that aren't valid are left out, and on SQLite so are
// those over expressions.
func look(ctx context.Context, q endstate.Querier, t *table) (*table, error) {
	columns := `SELECT attname::text, format_type(atttypid, NULL), attnotnull FROM pg_attribute WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped`
	indexes := `SELECT x.relname::text, i.indisunique, i.indpred IS NOT NULL, string_agg(coalesce(a.attname, '` + expression + `'), chr(1) ORDER BY k.place)
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid CROSS JOIN LATERAL unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k (attnum, place)
LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = to_regclass($1::text) AND i.indisvalid GROUP BY x.relname, i.indisunique, i.indpred IS NOT NULL`
	name := t.quoted()
	if sqltx.Of(q) == sqltx.SQLite {
		name = t.name
		schema := schemaOr(t.schema)
		columns = `SELECT name, type, "notnull" OR pk > 0 FROM pragma_table_info(?1, ` + schema + `)`
		indexes = `SELECT coalesce(index_name, ''), is_unique, partial, group_concat(name, char(1)) FROM (
	SELECT l.seq AS idx, l.name AS index_name, l."unique" AS is_unique, l.partial AS partial, c.seqno AS place, c.name AS name FROM pragma_index_list(?1, ` + schema + `) l, pragma_index_info(l.name, ` + schema + `) c
	UNION ALL SELECT -1, NULL, true, false, pk, name FROM pragma_table_info(?1, ` + schema + `) WHERE pk ORDER BY idx, place) GROUP BY idx HAVING count(*) = count(name)` // an expression has no name
	}
	have := &table{schema: t.schema, name: t.name}
	rows, err := q.Query(ctx, columns, name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c column
		if err := rows.Scan(&c.name, &c.kind, &c.notNull); err != nil {
			return nil, err
		}
		c.kind = strings.Trim(c.kind, `"`) // which quote_all_identifiers puts there
		have.columns = append(have.columns, c)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	rows.Close()
	if rows, err = q.Query(ctx, indexes, name); err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var x index
		var columns string
		if err := rows.Scan(&x.name, &x.unique, &x.partial, &columns); err != nil {
			return nil, err
		}
		x.columns = strings.Split(columns, "\x01")
		have.indexes = append(have.indexes, x)
	}
	return have, rows.Err()
}
