package published

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// ErrUnclear is returned when a condition can't tell which rows are published. It arrives wrapped.
var ErrUnclear = errors.New("what is published can't be told")

// Verdict is a condition on a table of which it is known that it can be asked.
type Verdict struct {
	SQL  string // an expression, true or false of each row
	When string // the quoted column of the time when a row was published; empty if the condition is about none
}

// Judge looks at a table's column, and at what is in it. ErrUnclear says why that doesn't tell which rows are published. On
// SQLite, whose columns hold anything, micros is the expression for a column's time in microseconds, NULL for what is none.
func (c Condition) Judge(ctx context.Context, q endstate.Querier, schema, table string, micros func(column string) string) (Verdict, error) {
	if sqltx.Of(q) == sqltx.SQLite {
		return c.judgeSQLite(ctx, q, schema, table, micros)
	}
	column := sqltx.Quote("", c.Column)
	var kind, category string
	var time, required, filled bool
	err := q.QueryRow(ctx, `WITH RECURSIVE endstate_types AS (
	SELECT t.oid, t.typbasetype, t.typcategory, a.attnotnull OR t.typnotnull AS required, t.typdefault IS NOT NULL AS filled
	FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = to_regclass($1::text) AND a.attname = $2::text AND NOT a.attisdropped
	UNION ALL
	SELECT t.oid, t.typbasetype, t.typcategory, b.required OR t.typnotnull, b.filled OR t.typdefault IS NOT NULL FROM endstate_types b JOIN pg_type t ON t.oid = b.typbasetype)
SELECT format_type(a.atttypid, a.atttypmod), t.typcategory::text, t.oid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype), t.required,
	t.filled OR coalesce((SELECT pg_get_expr(d.adbin, d.adrelid) NOT LIKE 'NULL%' FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum), false)
FROM pg_attribute a, endstate_types t WHERE a.attrelid = to_regclass($1::text) AND a.attname = $2::text AND NOT a.attisdropped AND t.typbasetype = 0`,
		sqltx.Quote(schema, table), c.Column).Scan(&kind, &category, &time, &required, &filled)
	if errors.Is(err, pgx.ErrNoRows) {
		return Verdict{}, fmt.Errorf("table %s has no column %s", sqltx.Quote(schema, table), column)
	}
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{}
	if time {
		v.When = column
	}
	if c.Stated() {
		v.SQL = c.sql(sqltx.Postgres)
		// What the column can't be compared with is refused when the statement is parsed.
		if _, err := q.Exec(ctx, fmt.Sprintf("SELECT FROM %s WHERE %s LIMIT 0", sqltx.Quote(schema, table), v.SQL)); err != nil {
			if state := sqltx.State(err); strings.HasPrefix(state, "22") || strings.HasPrefix(state, "42") {
				err = fmt.Errorf("%w: %s can't be asked of column %s, which is %s: %w", ErrUnclear, c, column, kind, err)
			}
			return Verdict{}, err
		}
		return v, nil
	}
	switch {
	case category == "B":
		v.SQL = "(" + column + " IS TRUE)"
		return v, nil
	case required:
		return Verdict{}, c.unclear(kind + " NOT NULL")
	case !time:
		return Verdict{}, c.unclear(kind)
	case filled:
		return Verdict{}, c.unclear(kind + " with a default")
	}
	v.SQL = "(" + column + " IS NOT NULL)"
	return v, c.plausible(ctx, q, fmt.Sprintf("SELECT min(%[1]s::text) FROM %[2]s WHERE NOT isfinite(%[1]s) OR %[1]s < '1971-01-01' OR %[1]s > now() + interval '2 days'",
		column, sqltx.Quote(schema, table)))
}

func (c Condition) judgeSQLite(ctx context.Context, q endstate.Querier, schema, table string, micros func(column string) string) (Verdict, error) {
	if schema == "" {
		schema = "main"
	}
	column := sqltx.Quote("", c.Column)
	if c.Stated() {
		return Verdict{SQL: c.sql(sqltx.SQLite)}, nil
	}
	var kind string
	var required bool
	var fallback *string
	err := q.QueryRow(ctx, `SELECT type, "notnull", dflt_value FROM pragma_table_info(?1, ?2) WHERE name = ?3`, table, schema, c.Column).Scan(&kind, &required, &fallback)
	if err != nil {
		return Verdict{}, err
	}
	switch {
	case strings.Contains(strings.ToUpper(kind), "BOOL"):
		return Verdict{SQL: fmt.Sprintf("(coalesce(lower(CAST(%s AS text)), '') IN ('1', '1.0', 'true', 't'))", column)}, nil
	case required:
		return Verdict{}, c.unclear(strings.TrimSpace(kind + " NOT NULL"))
	case fallback != nil && !strings.EqualFold(*fallback, "NULL"):
		return Verdict{}, c.unclear(strings.TrimSpace(kind + " with a default"))
	}
	at := micros(column)
	return Verdict{SQL: "(" + column + " IS NOT NULL)", When: column}, c.plausible(ctx, q, fmt.Sprintf(
		"SELECT CAST(min(%[1]s) AS text) FROM %[2]s WHERE %[1]s IS NOT NULL AND (%[3]s IS NULL OR %[3]s < 31536000000000 OR %[3]s > (CAST(strftime('%%s', 'now') AS integer) + 172800) * 1000000)",
		column, sqltx.Quote(schema, table), at))
}

// plausible refuses a column in which there is a value at which no event was published, as of those who write a time long ago
// for "not yet".
func (c Condition) plausible(ctx context.Context, q endstate.Querier, query string) error {
	var odd *string
	if err := q.QueryRow(ctx, query).Scan(&odd); err != nil || odd == nil {
		return err
	}
	return fmt.Errorf("%w: column %s holds %.40q, which is no time at which an event was published: say what a published event has there, as in: %[2]s <> '…'",
		ErrUnclear, sqltx.Quote("", c.Column), *odd)
}

func (c Condition) unclear(kind string) error {
	column := sqltx.Quote("", c.Column)
	return fmt.Errorf("%w: column %s is %s: say what a published event has there, as in: %[2]s = '…', or %[2]s IN ('…', '…'), or %[2]s IS NOT NULL",
		ErrUnclear, column, kind)
}
