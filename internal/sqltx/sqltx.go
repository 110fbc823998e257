// Package sqltx is what guard, outbox and finalize share of the two ways to a database: the pgx-shaped interface over a
// connection, a *sql.Tx (or *sql.DB) that speaks it, the dialects, and the meaning of the databases' error codes.
package sqltx

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Querier runs statements. pgx.Tx, *pgx.Conn, *pgxpool.Pool and the wrappers of this package are Queriers.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Tx is a Querier that can also end, which is what tells a transaction from a pool.
type Tx interface {
	Querier
	Commit(ctx context.Context) error
	Rollback(ctx context.Context) error
}

// Dialect names a database's SQL.
type Dialect string

// The dialects.
const (
	Postgres Dialect = "postgres"
	SQLite   Dialect = "sqlite"
)

// Of returns q's dialect: the one it was wrapped with, else Postgres, since pgx speaks nothing else.
func Of(q Querier) Dialect {
	if d, ok := q.(interface{ Dialect() Dialect }); ok {
		return d.Dialect()
	}
	return Postgres
}

// Detect tells the dialect of a *sql.DB by the package of its driver; ok is false for a driver it doesn't know, a wrapping
// one for instance.
func Detect(db *sql.DB) (d Dialect, ok bool) {
	name := strings.ToLower(fmt.Sprintf("%T %s", db.Driver(), driverPackage(db)))
	switch {
	case strings.Contains(name, "sqlite"):
		return SQLite, true
	case strings.Contains(name, "pgx"), strings.Contains(name, "lib/pq"):
		return Postgres, true
	}
	return "", false
}

// Wrap makes a *sql.Tx speak the pgx-shaped interface.
func Wrap(tx *sql.Tx, d Dialect) Tx { return sqlTx{sqlQuerier{tx, d}, tx} }

// WrapDB makes a *sql.DB or a *sql.Conn a Querier.
func WrapDB(db interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}, d Dialect) Querier {
	return sqlQuerier{db, d}
}

type sqlQuerier struct {
	db interface {
		ExecContext(context.Context, string, ...any) (sql.Result, error)
		QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	}
	dialect Dialect
}

func (q sqlQuerier) Dialect() Dialect { return q.dialect }

func (q sqlQuerier) Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error) {
	res, err := q.db.ExecContext(ctx, query, args...)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return pgconn.NewCommandTag(fmt.Sprintf("OK %d", n)), nil
}

func (q sqlQuerier) Query(ctx context.Context, query string, args ...any) (pgx.Rows, error) {
	r, err := q.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return &rows{Rows: r}, nil
}

func (q sqlQuerier) QueryRow(ctx context.Context, query string, args ...any) pgx.Row {
	r, err := q.Query(ctx, query, args...)
	return row{r, err}
}

type sqlTx struct {
	sqlQuerier
	tx *sql.Tx
}

func (t sqlTx) Commit(context.Context) error   { return t.tx.Commit() }
func (t sqlTx) Rollback(context.Context) error { return t.tx.Rollback() }

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
