package guard

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate"
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
// time) is due. The keys are Int, UUID or Text, by the key columns' types; on SQLite, which has no uuid type, Int or Text.
//
// Rows are gone through in the keys' order. Among many final rows the open ones are found fast with the index that DueIndex
// returns.
func (s Status) Due(idle time.Duration) (DueFunc, error) {
	if s.Touched == "" {
		return nil, fmt.Errorf("%w: Status.Touched is empty: name the column that tells when a row was last worked on", ErrConfig)
	}
	if idle < 0 {
		return nil, fmt.Errorf("%w: idle is %v", ErrConfig, idle)
	}
	return func(ctx context.Context, q endstate.Querier) iter.Seq2[Key, error] {
		return func(yield func(Key, error) bool) {
			var after Key
			for {
				keys, last, more, err := s.duePage(ctx, q, idle, after)
				if err != nil {
					yield(Key{}, fmt.Errorf("guard: look for due rows of %s: %w", s.table(), err))
					return
				}
				for _, key := range keys {
					if !yield(key, nil) {
						return
					}
				}
				if !more {
					return
				}
				after = last
			}
		}
	}, nil
}

// duePage reads the keys behind after. The last row's key is where the next page begins; a Func may have refused that row.
func (s Status) duePage(ctx context.Context, q endstate.Querier, idle time.Duration, after Key) (keys []Key, last Key, more bool, err error) {
	query, args := s.dueQuery(sqltx.Of(q), idle, after)
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, Key{}, false, err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		n++
		values, types := make([]string, len(s.keys())), make([]string, len(s.keys()))
		var state *string
		dest := []any{&state}
		for i := range values {
			dest = append(dest, &values[i], &types[i])
		}
		if err := rows.Scan(dest...); err != nil {
			return nil, Key{}, false, err
		}
		if last, err = keyOf(values, types); err != nil {
			return nil, Key{}, false, err
		}
		if state == nil || !s.Terminal.Terminal(*state) {
			keys = append(keys, last)
		}
	}
	rows.Close()
	return keys, last, n == duePage, rows.Err()
}

func (s Status) dueQuery(d sqltx.Dialect, idle time.Duration, after Key) (string, []any) {
	args := []any{idle.Seconds()}
	touched := sqltx.Quote("", s.Touched)
	typeOf, open := "pg_typeof", s.Terminal.open
	due := fmt.Sprintf("(%s IS NULL OR %s < clock_timestamp() - make_interval(secs => $1::float8))", touched, touched)
	if d == sqltx.SQLite {
		typeOf, open = "typeof", s.Terminal.openSQLite
		due = fmt.Sprintf("coalesce(julianday(%s) < julianday('now') - ?1 / 86400.0, true)", touched)
	}
	if s.Terminal.fn == nil {
		due += " AND " + open(s.column())
	}
	columns := []string{fmt.Sprintf("CAST(%s AS text)", s.column())}
	var order, bounds []string
	for _, key := range s.keys() {
		column := "endstate_row." + sqltx.Quote("", key) // an ORDER BY takes a bare name for the column of text that is selected
		columns = append(columns, fmt.Sprintf("CAST(%s AS text), CAST(%s(%s) AS text)", column, typeOf, column))
		order = append(order, column)
	}
	for kind := range after.parts() {
		if d == sqltx.SQLite {
			bounds = append(bounds, fmt.Sprintf("?%d", len(bounds)+2))
		} else {
			bounds = append(bounds, fmt.Sprintf("$%d%s", len(bounds)+2, cast(kind)))
		}
	}
	if len(bounds) > 0 {
		due += fmt.Sprintf(" AND (%s) > (%s)", strings.Join(order, ", "), strings.Join(bounds, ", "))
		args = append(args, after.Args()...)
	}
	return fmt.Sprintf("SELECT %s FROM %s AS endstate_row WHERE %s ORDER BY %s LIMIT %d",
		strings.Join(columns, ", "), s.table(), due, strings.Join(order, ", "), duePage), args
}

// keyOf makes a key of the texts of key columns and of their types' names.
func keyOf(values, types []string) (Key, error) {
	parts := make([]Key, len(values))
	for i, value := range values {
		switch types[i] {
		case "smallint", "integer", "bigint":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return Key{}, err
			}
			parts[i] = Int(n)
		case "uuid":
			id, err := uuid.Parse(value)
			if err != nil {
				return Key{}, err
			}
			parts[i] = UUID(id)
		default:
			parts[i] = Text(value)
		}
	}
	return Composite(parts...), nil
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
