package guard

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// DueFunc yields the keys of aggregates that should have been finalized by now, for finalize.Sweeper. It reads them in pages,
// so that no statement stays open while the caller works on a key; it takes no locks, and what it yields may be final by the
// time it is looked at. After an error it ends.
type DueFunc func(ctx context.Context, q endstate.Querier) iter.Seq2[Key, error]

// DueFinder is what a Guard may implement to find them by itself.
type DueFinder interface {
	// Due finds the aggregates that are open and that nobody has touched for longer than idle, by the database's clock. The
	// error, which wraps ErrConfig, says why the guard can't.
	Due(idle time.Duration) (DueFunc, error)
}

var (
	_ DueFinder = Status{}
	_ DueFinder = all(nil)
)

// duePage is how many keys are read at a time.
const duePage = 500

// Due implements DueFinder by the column Touched. A row whose Touched is NULL (on SQLite also one that it can't read as a
// time) is due. The keys are of the key columns' kinds; on SQLite, where a value's own type tells, they are Int, Bytes or Text.
//
// Rows are gone through in the keys' order. Among many final rows the open ones are found fast with the index that DueIndex
// returns. On PostgreSQL each search looks at the columns' types first, and fails with ErrSchema where Touched has no time zone:
// by the clock of which session it was set is not known.
func (s Status) Due(idle time.Duration) (DueFunc, error) {
	if s.Touched == "" {
		return nil, fmt.Errorf("%w: Status.Touched is empty: name the column that says when a row was last worked on", ErrConfig)
	}
	if idle < 0 {
		return nil, fmt.Errorf("%w: idle is %v", ErrConfig, idle)
	}
	touched := sqltx.Quote("", s.Touched)
	return s.due(pager{
		Status: s, args: []any{idle.Seconds()}, touched: true,
		postgres: fmt.Sprintf("%[1]s IS NULL OR %[1]s < clock_timestamp() - make_interval(secs => $1::float8)", touched),
		sqlite:   fmt.Sprintf("coalesce(julianday(%s) < julianday('now') - ?1 / 86400.0, true)", touched),
	}), nil
}

// DueWhere returns a DueFunc for SweeperConfig.Due that finds the open rows for which an SQL condition holds, in the keys' order
// and in pages, such as
//
//	status.DueWhere("due_at < now()")
//
// which goes by the database's clock. The condition is a constant of the program's, in the database's dialect, and names the
// table's columns; no part of it may come from outside. Errors come from the DueFunc.
func (s Status) DueWhere(condition string) DueFunc {
	return s.due(pager{Status: s, postgres: condition, sqlite: condition})
}

// pager finds due rows, a page at a time.
type pager struct {
	Status
	postgres, sqlite string // the condition, which may use args
	args             []any
	touched          bool // the condition compares Touched
	columns          []keyColumn
}

// due returns the pager's DueFunc.
func (s Status) due(p pager) DueFunc {
	return func(ctx context.Context, q endstate.Querier) iter.Seq2[Key, error] {
		return func(yield func(Key, error) bool) {
			p := p
			err := p.prepare(ctx, q)
			var after []any
			for more := true; more && err == nil; {
				var keys []Key
				keys, after, more, err = p.page(ctx, q, after)
				for _, key := range keys {
					if !yield(key, nil) {
						return
					}
				}
			}
			if err != nil {
				yield(Key{}, fmt.Errorf("guard: look for due rows of %s: %w", s.table(), err))
			}
		}
	}
}

// prepare looks at the columns' types.
func (p *pager) prepare(ctx context.Context, q endstate.Querier) error {
	if err := p.Validate(); err != nil || sqltx.Of(q) == sqltx.SQLite {
		return err
	}
	columns, err := migrate.Columns(ctx, q, p.Schema, p.Table)
	if err != nil {
		return err
	}
	if len(columns) == 0 {
		return fmt.Errorf("%w: table %s does not exist", ErrSchema, p.table())
	}
	if p.touched {
		if err := p.checkTouched(columns); err != nil {
			return fmt.Errorf("%w: %w", ErrSchema, err)
		}
	}
	p.columns, err = p.keyColumnsOf(columns)
	return err
}

// page reads the keys behind after, which is nil at the beginning, and says where the next page begins. A Func may refuse rows
// that were read.
func (p *pager) page(ctx context.Context, q endstate.Querier, after []any) (keys []Key, last []any, more bool, err error) {
	build := p.query
	if sqltx.Of(q) == sqltx.SQLite {
		build = p.querySQLite
	}
	query, args := build(after)
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, nil, false, err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		n++
		values, types := make([]string, len(p.keys())), make([]string, len(p.keys()))
		var state *string
		dest := []any{&state}
		for i := range values {
			if dest = append(dest, &values[i]); p.columns == nil {
				dest = append(dest, &types[i])
			}
		}
		if err := rows.Scan(dest...); err != nil {
			return nil, nil, false, err
		}
		parts := make([]Key, len(values))
		last = make([]any, len(values))
		for i, value := range values {
			if p.columns != nil {
				parts[i], last[i] = partOf(p.columns[i].kind, value), value
				continue
			}
			parts[i] = partOf(map[string]byte{"integer": kindInt, "blob": kindBytes}[types[i]], value)
			last[i] = parts[i].Args()[0]
		}
		if state == nil || !p.Terminal.Terminal(*state) {
			keys = append(keys, Composite(parts...))
		}
	}
	rows.Close()
	return keys, last, n == duePage, rows.Err()
}

// partOf is a part of a key of this kind by its value, as the database wrote it in a key's own form.
func partOf(kind byte, value string) Key {
	if kind == 0 || kind == kindText {
		return Text(value)
	}
	return Key{string(kind) + ":" + value}
}

func (p *pager) query(after []any) (string, []any) {
	const row = "endstate_row."
	args := slices.Clone(p.args)
	where := "(" + p.postgres + "\n)"
	if p.Terminal.fn == nil {
		where += " AND " + p.Terminal.open(row+p.column())
	}
	// An ORDER BY takes a bare name for the column of text that is selected.
	order := join(p.columns, ", ", func(c keyColumn) string { return row + c.column })
	for _, c := range p.columns {
		where += fmt.Sprintf(" AND %s%s IS NOT NULL", row, c.column)
	}
	if after != nil {
		n := len(args)
		args = append(args, after...)
		where += fmt.Sprintf(" AND (%s) > (%s)", order, join(p.columns, ", ", func(c keyColumn) string {
			n++
			return c.value(fmt.Sprintf("$%d", n))
		}))
	}
	return fmt.Sprintf("SELECT CAST(%s AS text), %s FROM %s AS endstate_row WHERE %s ORDER BY %s LIMIT %d", row+p.column(),
		join(p.columns, ", ", func(c keyColumn) string { return c.text(row) }), p.table(), where, order, duePage), args
}

func (p *pager) querySQLite(after []any) (string, []any) {
	args := slices.Clone(p.args)
	where := "(" + p.sqlite + "\n)"
	if p.Terminal.fn == nil {
		where += " AND " + p.Terminal.openSQLite(p.column())
	}
	columns := []string{fmt.Sprintf("CAST(%s AS text)", p.column())}
	var order, bounds []string
	for i, key := range p.keys() {
		column := "endstate_row." + sqltx.Quote("", key)
		columns = append(columns, fmt.Sprintf("CASE typeof(%[1]s) WHEN 'blob' THEN lower(hex(%[1]s)) ELSE CAST(%[1]s AS text) END, typeof(%[1]s)", column))
		order = append(order, column)
		where += fmt.Sprintf(" AND %s IS NOT NULL", column)
		if after != nil {
			args = append(args, after[i])
			bounds = append(bounds, fmt.Sprintf("?%d", len(args)))
		}
	}
	if after != nil {
		where += fmt.Sprintf(" AND (%s) > (%s)", strings.Join(order, ", "), strings.Join(bounds, ", "))
	}
	return fmt.Sprintf("SELECT %s FROM %s AS endstate_row WHERE %s ORDER BY %s LIMIT %d",
		strings.Join(columns, ", "), p.table(), where, strings.Join(order, ", "), duePage), args
}

// DueIndex returns the statement that creates, on PostgreSQL, an index of the open rows' keys, by which Due finds them
// however many final rows there are. It is empty where a Func decides which states are terminal. Touched isn't part of it: an
// index over a column makes every change of that column dearer.
func (s Status) DueIndex() string {
	if s.Terminal.fn != nil {
		return ""
	}
	var columns []string
	for _, key := range s.keys() {
		columns = append(columns, sqltx.Quote("", key))
	}
	return fmt.Sprintf("CREATE INDEX CONCURRENTLY IF NOT EXISTS %s ON %s (%s) WHERE %s",
		sqltx.Quote("", s.Table+"_open"), s.table(), strings.Join(columns, ", "), s.Terminal.open(s.column()))
}

// Due implements DueFinder by the first guard that can find what is due. If it says that an aggregate is open and another
// guard knows better, that is found when it is claimed.
func (g all) Due(idle time.Duration) (DueFunc, error) {
	var errs []error
	for _, guard := range g {
		if finder, ok := guard.(DueFinder); ok {
			due, err := finder.Due(idle)
			if err == nil {
				return due, nil
			}
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("%w: none of the guards can find what is due", ErrConfig)
	}
	return nil, errors.Join(errs...)
}
