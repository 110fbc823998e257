package migrate

import (
	"context"
	"strings"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Column is what PostgreSQL's catalog says of a column. A column of a domain has the domain's base type.
type Column struct {
	Name   string
	Type   string // the type's name in pg_type, such as "int8", "bpchar" or an enum's own
	Shown  string // as SQL shows it, such as "character varying(20)"
	Kind   byte   // pg_type.typtype: 'b' for base types, 'e' for enums
	Length int    // the most characters that a varchar or char holds; 0: any
	Digits int    // a numeric's precision; 0: any
	Scale  int    // a numeric's scale; -1: any

	Generated bool // GENERATED ALWAYS, as an expression or an identity: no statement may write it
	Required  bool // NOT NULL, and nothing fills it in
}

// Textual reports whether a column holds text of any kind.
func (c Column) Textual() bool {
	switch c.Type {
	case "text", "varchar", "bpchar", "citext", "name":
		return true
	}
	return false
}

// Columns returns the columns of a table or view on PostgreSQL, by name; none if it doesn't exist.
func Columns(ctx context.Context, q endstate.Querier, schema, table string) (map[string]Column, error) {
	rows, err := q.Query(ctx, `WITH RECURSIVE endstate_type AS (
	SELECT a.attname, a.atttypid AS type, a.atttypmod AS mod, a.attgenerated <> '' OR a.attidentity = 'a' AS generated,
		a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS required
	FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = to_regclass($1::text) AND a.attnum > 0 AND NOT a.attisdropped
	UNION ALL
	SELECT e.attname, t.typbasetype, t.typtypmod, e.generated, e.required
	FROM endstate_type AS e JOIN pg_catalog.pg_type AS t ON t.oid = e.type WHERE t.typtype = 'd')
SELECT CAST(e.attname AS text), CAST(t.typname AS text), format_type(e.type, e.mod), CAST(t.typtype AS text), e.mod, e.generated, e.required
FROM endstate_type AS e JOIN pg_catalog.pg_type AS t ON t.oid = e.type WHERE t.typtype <> 'd'`, sqltx.Quote(schema, table))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns := map[string]Column{}
	for rows.Next() {
		c := Column{Scale: -1}
		var kind string
		var mod int32
		if err := rows.Scan(&c.Name, &c.Type, &c.Shown, &kind, &mod, &c.Generated, &c.Required); err != nil {
			return nil, err
		}
		c.Kind = kind[0]
		if mod >= 4 {
			switch c.Type {
			case "varchar", "bpchar":
				c.Length = int(mod - 4)
			case "numeric":
				c.Digits, c.Scale = int((mod-4)>>16), int((mod-4)&0x7ff)
			}
		}
		columns[c.Name] = c
	}
	return columns, rows.Err()
}

// Labels returns the labels of an enum column of a table.
func Labels(ctx context.Context, q endstate.Querier, schema, table, column string) ([]string, error) {
	return Strings(ctx, q, `WITH RECURSIVE endstate_type AS (
	SELECT a.atttypid AS type FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = to_regclass($1::text) AND a.attname = $2::text
	UNION ALL SELECT t.typbasetype FROM endstate_type AS e JOIN pg_catalog.pg_type AS t ON t.oid = e.type WHERE t.typtype = 'd')
SELECT CAST(l.enumlabel AS text) FROM endstate_type AS e JOIN pg_catalog.pg_enum AS l ON l.enumtypid = e.type`, sqltx.Quote(schema, table), column)
}

// Deferrable returns the names of a table's unique and exclusion constraints that are DEFERRABLE: with one of them, ON CONFLICT
// is an error in every INSERT, whatever it conflicts with.
func Deferrable(ctx context.Context, q endstate.Querier, schema, table string) ([]string, error) {
	return Strings(ctx, q, `SELECT CAST(c.relname AS text) FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass($1::text) AND NOT i.indimmediate ORDER BY 1`, sqltx.Quote(schema, table))
}

// Rules returns the names of a table's rules for INSERT and UPDATE, with which PostgreSQL refuses every ON CONFLICT.
func Rules(ctx context.Context, q endstate.Querier, schema, table string) ([]string, error) {
	return Strings(ctx, q, `SELECT CAST(r.rulename AS text) FROM pg_catalog.pg_rewrite AS r
WHERE r.ev_class = to_regclass($1::text) AND r.ev_type IN ('2', '3') ORDER BY 1`, sqltx.Quote(schema, table))
}

// List joins names for a message, quoted.
func List(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = sqltx.Quote("", name)
	}
	return strings.Join(quoted, ", ")
}
