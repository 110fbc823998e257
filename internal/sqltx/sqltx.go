// Package sqltx is what guard, outbox and finalize share of the two ways to a database: the pgx-shaped interface over a
// connection, a *sql.Tx (or *sql.DB) that speaks it, the dialects, and the meaning of the databases' error codes.
package sqltx

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Dialect names a database's SQL.
type Dialect string

// The dialects.
const (
	Postgres Dialect = "postgres"
	SQLite   Dialect = "sqlite"
)

// Of returns the dialect of what runs statements: the one it was wrapped with, else Postgres, since pgx speaks nothing else.
func Of(q any) Dialect {
	if d, ok := q.(interface{ Dialect() Dialect }); ok {
		return d.Dialect()
	}
	return Postgres
}

// Choose returns the dialect of a *sql.DB: the one that its user named, or, where that is empty, the one that its driver's
// package tells. The error says what to set.
func Choose(db *sql.DB, named string) (Dialect, error) {
	switch d := Dialect(named); d {
	case Postgres, SQLite:
		return d, nil
	case "":
	default:
		return "", fmt.Errorf("Dialect is %q; there are postgres and sqlite", named)
	}
	if db == nil {
		return "", errors.New("db is nil")
	}
	name := strings.ToLower(fmt.Sprintf("%T %s", db.Driver(), driverPackage(db)))
	switch {
	case strings.Contains(name, "sqlite"):
		return SQLite, nil
	case strings.Contains(name, "pgx"), strings.Contains(name, "lib/pq"), strings.Contains(name, "pgdriver"):
		return Postgres, nil
	}
	return "", fmt.Errorf("Dialect is empty and driver %T is unknown; set it to postgres or sqlite", db.Driver())
}

// Clock is the database's time of day as an SQL expression: a timestamptz, or on SQLite text in RFC 3339 with milliseconds.
func (d Dialect) Clock() string {
	if d == SQLite {
		return "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
	}
	return "clock_timestamp()"
}

type executor interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

type ender interface {
	Commit() error
	Rollback() error
}

// Wrap makes a *sql.Tx, or what poses as one, speak the pgx-shaped interface.
func Wrap(tx interface {
	executor
	ender
}, d Dialect) Tx {
	return Tx{Querier{tx, d}, tx}
}

// WrapDB makes a *sql.DB or a *sql.Conn speak it.
func WrapDB(db executor, d Dialect) Querier { return Querier{db, d} }

// Querier is an endstate.Querier on database/sql.
type Querier struct {
	db      executor
	dialect Dialect
}

// text is a statement as its database reads it.
func (q Querier) text(query string) string {
	if q.dialect == SQLite {
		return numbered(query)
	}
	return query
}

// Dialect is what Of asks for.
func (q Querier) Dialect() Dialect { return q.dialect }

func (q Querier) Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error) {
	res, err := q.db.ExecContext(ctx, q.text(query), args...)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return pgconn.NewCommandTag(fmt.Sprintf("OK %d", n)), nil
}

func (q Querier) Query(ctx context.Context, query string, args ...any) (pgx.Rows, error) {
	r, err := q.db.QueryContext(ctx, q.text(query), args...)
	if err != nil {
		return nil, err
	}
	return &rows{Rows: r}, nil
}

func (q Querier) QueryRow(ctx context.Context, query string, args ...any) pgx.Row {
	r, err := q.Query(ctx, query, args...)
	return row{r, err}
}

// Tx is an endstate.Tx on database/sql.
type Tx struct {
	Querier
	tx ender
}

func (t Tx) Commit(context.Context) error   { return t.tx.Commit() }
func (t Tx) Rollback(context.Context) error { return t.tx.Rollback() }

// rows is *sql.Rows in pgx's shape. What only the wire protocol has (field descriptions, raw values) is absent.
type rows struct {
	*sql.Rows
	n int64
}

func (r *rows) Close() { _ = r.Rows.Close() }
func (r *rows) Next() bool {
	ok := r.Rows.Next()
	if ok {
		r.n++
	}
	return ok
}
func (r *rows) CommandTag() pgconn.CommandTag {
	return pgconn.NewCommandTag(fmt.Sprintf("SELECT %d", r.n))
}
func (r *rows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (r *rows) RawValues() [][]byte                          { return nil }
func (r *rows) Conn() *pgx.Conn                              { return nil }
func (r *rows) TypeMap() *pgtype.Map                         { return nil }

func (r *rows) Values() ([]any, error) {
	cols, err := r.Columns()
	if err != nil {
		return nil, err
	}
	values, dest := make([]any, len(cols)), make([]any, len(cols))
	for i := range values {
		dest[i] = &values[i]
	}
	return values, r.Scan(dest...)
}

type row struct {
	rows pgx.Rows
	err  error
}

func (r row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err // and not "no rows", which would mean that an aggregate is open or absent
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}
