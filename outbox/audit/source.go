package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/published"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// source writes the audit's statements for one table. Both databases get the same text: what they differ in are the
// expressions for a time, as integer microseconds since 1970, and for text.
type source struct {
	cfg       Config
	dialect   sqltx.Dialect
	time      string // a row's time in microseconds, or NULL
	published string // whether a row was published
}

// newSource looks at the columns' types.
func newSource(ctx context.Context, q endstate.Querier, cfg Config) (*source, error) {
	s := &source{cfg: cfg, dialect: sqltx.Of(q), published: "false"}
	if cfg.Published != "" {
		condition, err := published.Parse(cfg.Published)
		if err != nil {
			return nil, err
		}
		verdict, err := condition.Judge(ctx, q, cfg.Schema, cfg.Table, sqliteTime)
		if errors.Is(err, published.ErrUnclear) {
			return nil, fmt.Errorf("%w: %w", ErrSchema, err)
		}
		if err != nil {
			return nil, err
		}
		s.published = verdict.SQL
	}
	column := sqltx.Quote("", cfg.Time)
	if s.dialect == sqltx.SQLite {
		s.time = sqliteTime(column)
		return s, nil
	}
	var kind string
	err := q.QueryRow(ctx, `SELECT typcategory::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE attrelid = to_regclass($1::text) AND attname = $2::text`, sqltx.Quote(cfg.Schema, cfg.Table), cfg.Time).Scan(&kind)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "N": // a number
		s.time = fmt.Sprintf("(%s)::int8", unixMicros(column))
	case "D", "S": // a date or time, or text
		s.time = fmt.Sprintf("CASE WHEN isfinite(%[1]s::timestamptz) THEN (date_part('epoch', %[1]s::timestamptz) * 1000000)::int8 END", column)
	default:
		return nil, fmt.Errorf("%w: column %s holds no time", ErrSchema, column)
	}
	return s, nil
}

// sqliteTime is a column's time in microseconds, NULL where SQLite can't read it. The second attempt at a text takes the form
// of Go's Time.String, in which drivers store a time.Time: "2006-01-02 15:04:05.999 +0100 CET".
func sqliteTime(column string) string {
	micros := func(text string) string {
		return fmt.Sprintf("CAST(round((julianday(%s) - 2440587.5) * 86400000) AS INTEGER) * 1000", text)
	}
	clock := fmt.Sprintf("substr(%[1]s, 1, 10 + instr(substr(%[1]s, 12), ' '))", column)
	zone := fmt.Sprintf("substr(%[1]s, 12 + instr(substr(%[1]s, 12), ' '), 5)", column)
	goText := fmt.Sprintf("%s || substr(%[2]s, 1, 3) || ':' || substr(%[2]s, 4)", clock, zone)
	return fmt.Sprintf("CASE typeof(%[1]s) WHEN 'text' THEN coalesce(%[2]s, %[3]s) WHEN 'integer' THEN CAST(%[4]s AS INTEGER) WHEN 'real' THEN CAST(%[4]s AS INTEGER) END",
		column, micros(column), micros(goText), unixMicros(column))
}

// unixMicros is the expression for a number that counts seconds, milli-, micro- or nanoseconds since 1970.
func unixMicros(column string) string {
	return fmt.Sprintf("CASE WHEN abs(%[1]s) < 1e11 THEN %[1]s * 1000000 WHEN abs(%[1]s) < 1e14 THEN %[1]s * 1000 WHEN abs(%[1]s) < 1e17 THEN %[1]s ELSE %[1]s / 1000 END", column)
}

func (s *source) table() string { return sqltx.Quote(s.cfg.Schema, s.cfg.Table) }

// text is a column as text that compares by its bytes.
func (s *source) text(column string) string {
	if s.dialect == sqltx.SQLite {
		return fmt.Sprintf("(CASE typeof(%[1]s) WHEN 'blob' THEN hex(%[1]s) ELSE CAST(%[1]s AS TEXT) END) COLLATE BINARY", column)
	}
	return fmt.Sprintf(`(%s)::text COLLATE "C"`, column)
}

// keys are the columns that tell aggregates apart: those of the id, and the last is the type's.
func (s *source) keys() []string {
	var keys []string
	for _, column := range append(append([]string{}, s.cfg.Aggregate...), s.cfg.Type) {
		keys = append(keys, sqltx.Quote("", column))
	}
	return keys
}

// arguments collects a statement's arguments.
type arguments struct {
	dialect sqltx.Dialect
	list    []any
}

func (a *arguments) add(value any, cast string) string {
	a.list = append(a.list, value)
	if a.dialect == sqltx.SQLite {
		return fmt.Sprintf("?%d", len(a.list))
	}
	return fmt.Sprintf("$%d::%s", len(a.list), cast)
}

// keyed is the condition that a row belongs to an aggregate.
func (s *source) keyed() string { return strings.Join(s.keys(), " IS NOT NULL AND ") + " IS NOT NULL" }

// typed is the condition that a row's type matches a pattern.
func (s *source) typed(args *arguments) string {
	if len(s.cfg.EventTypes) == 0 {
		return "true"
	}
	var terms []string
	for _, pattern := range s.cfg.EventTypes {
		column := sqltx.Quote("", s.cfg.Type)
		if s.dialect == sqltx.SQLite {
			terms = append(terms, fmt.Sprintf("CAST(%s AS TEXT) GLOB %s", column, args.add(glob(pattern), "")))
		} else {
			terms = append(terms, fmt.Sprintf("%s::text LIKE %s", column, args.add(pattern, "text")))
		}
	}
	return "(" + strings.Join(terms, " OR ") + ")"
}

// glob is a LIKE pattern for SQLite's GLOB, whose case matters.
func glob(like string) string {
	var b strings.Builder
	literal := false
	for _, r := range like {
		switch {
		case !literal && r == '\\':
			literal = true
			continue
		case !literal && r == '%':
			b.WriteByte('*')
		case !literal && r == '_':
			b.WriteByte('?')
		case r == '*' || r == '?' || r == '[':
			b.WriteString("[" + string(r) + "]")
		default:
			b.WriteRune(r)
		}
		literal = false
	}
	return b.String()
}

// within is the condition that a row's time is within the audit's limits.
func (s *source) within(args *arguments) string {
	terms := []string{}
	limit := func(op string, t time.Time) {
		if t.IsZero() {
			return
		}
		if s.dialect == sqltx.Postgres && !strings.HasPrefix(s.time, "(") {
			// Of the bare column, which may have an index.
			terms = append(terms, fmt.Sprintf("%s::timestamptz %s %s", sqltx.Quote("", s.cfg.Time), op, args.add(t.UTC(), "timestamptz")))
			return
		}
		terms = append(terms, fmt.Sprintf("%s %s %s", s.time, op, args.add(t.UnixMicro(), "int8")))
	}
	limit(">=", s.cfg.Since)
	limit("<", s.cfg.Until)
	if len(terms) == 0 {
		return "true"
	}
	return "(" + strings.Join(terms, " AND ") + ")"
}

// totals counts the events, the rows without a key, the events without a time, and the published ones.
func (s *source) totals() (string, []any) {
	args := &arguments{dialect: s.dialect}
	within, typed := s.within(args), s.typed(args)
	where := typed
	if within != "true" {
		where += fmt.Sprintf(" AND (%s OR %s IS NULL)", within, sqltx.Quote("", s.cfg.Time))
	}
	return fmt.Sprintf(`SELECT count(*) FILTER (WHERE %[1]s AND %[2]s), count(*) FILTER (WHERE NOT (%[1]s)), count(*) FILTER (WHERE %[1]s AND %[3]s IS NULL),
	count(*) FILTER (WHERE %[1]s AND %[2]s AND %[6]s)
FROM %[4]s WHERE %[5]s`, s.keyed(), within, s.time, s.table(), where, s.published), args.list
}
