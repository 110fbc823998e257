package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Missing says which of the wanted columns a table lacks, or that there is no such table. It writes nothing.
func Missing(ctx context.Context, q endstate.Querier, schema, table string, columns []string) error {
	list := "SELECT name FROM pragma_table_xinfo(?1) WHERE hidden <> 1" // with generated columns, which pragma_table_info leaves out
	args := []any{table}
	if sqltx.Of(q) == sqltx.Postgres {
		list, args = "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped",
			[]any{sqltx.Quote(schema, table)}
	} else if schema != "" {
		list, args = "SELECT name FROM pragma_table_xinfo(?1, ?2) WHERE hidden <> 1", []any{table, schema}
	}
	have, err := Strings(ctx, q, list, args...)
	if err != nil {
		return err
	}
	if len(have) == 0 {
		return absent(ctx, q, schema, table)
	}
	var errs []error
	for _, column := range columns {
		if !slices.Contains(have, column) {
			errs = append(errs, fmt.Errorf("table %s has no column %s", sqltx.Quote(schema, table), sqltx.Quote("", column)))
		}
	}
	return errors.Join(errs...)
}

// absent says that a table doesn't exist, and where there is one of its name, if the search_path leaves that out.
func absent(ctx context.Context, q endstate.Querier, schema, table string) error {
	name := sqltx.Quote(schema, table)
	if schema != "" || sqltx.Of(q) != sqltx.Postgres {
		return fmt.Errorf("table %s does not exist", name)
	}
	var path, elsewhere string
	err := q.QueryRow(ctx, `SELECT current_setting('search_path'), coalesce(string_agg(n.nspname, ', '), '') FROM (
	SELECT quote_ident(n.nspname) AS nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
	WHERE c.relname = $1::text AND c.relkind IN ('r', 'p', 'v') ORDER BY 1 LIMIT 3) AS n`, table).Scan(&path, &elsewhere)
	if err != nil {
		return err
	}
	if elsewhere == "" {
		return fmt.Errorf("table %s does not exist", name)
	}
	return fmt.Errorf("table %s does not exist where the connection looks for it (its search_path is %q), but in schema %s: name the schema in the configuration, or have the role's search_path lead there", name, path, elsewhere)
}

// HasUnique reports whether a valid unique index, not limited to some rows, makes the columns together unique: its own are
// among them.
func HasUnique(ctx context.Context, q endstate.Querier, schema, table string, columns []string) (bool, error) {
	indexes := `SELECT string_agg(a.attname, chr(1))
FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
WHERE i.indrelid = to_regclass($1::text) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid`
	args := []any{sqltx.Quote(schema, table)}
	if sqltx.Of(q) == sqltx.SQLite {
		in := ""
		if schema != "" {
			in = ", " + schemaOr(schema)
		}
		indexes = `SELECT group_concat(name, char(1)) FROM (
	SELECT l.seq AS idx, c.name AS name FROM pragma_index_list(?1` + in + `) l, pragma_index_info(l.name` + in + `) c WHERE l."unique" AND NOT l.partial
	UNION ALL SELECT -1, name FROM pragma_table_info(?1` + in + `) WHERE pk) GROUP BY idx HAVING count(*) = count(name)` // an expression has no name
		args = []any{table}
	}
	found, err := Strings(ctx, q, indexes, args...)
	return slices.ContainsFunc(found, func(index string) bool {
		return !slices.ContainsFunc(strings.Split(index, "\x01"), func(column string) bool { return !slices.Contains(columns, column) })
	}), err
}

// Strings runs a query of one text column.
func Strings(ctx context.Context, q endstate.Querier, query string, args ...any) ([]string, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}
