package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Database is what a Relay and an Admin work on: a pgx pool, or database/sql on PostgreSQL or SQLite.
type Database interface{ *pgxpool.Pool | *sql.DB }

// database is a Database with its dialect. Its Querier runs each statement in a transaction of its own.
type database struct {
	endstate.Querier
	dialect sqltx.Dialect
	begin   func(ctx context.Context) (endstate.Tx, error)
}

func open[DB Database](db DB, dialect string) (database, error) {
	switch db := any(db).(type) {
	case *pgxpool.Pool:
		if db == nil {
			return database{}, fmt.Errorf("%w: the database is nil", ErrConfig)
		}
		if dialect == string(sqltx.SQLite) {
			return database{}, fmt.Errorf("%w: Dialect is sqlite, but a pgx pool is PostgreSQL; use a *sql.DB", ErrConfig)
		}
		return database{db, sqltx.Postgres, func(ctx context.Context) (endstate.Tx, error) { return db.Begin(ctx) }}, nil
	case *sql.DB:
		if db == nil {
			return database{}, fmt.Errorf("%w: the database is nil", ErrConfig)
		}
		d, err := sqltx.Choose(db, dialect)
		if err != nil {
			return database{}, fmt.Errorf("%w: %w", ErrConfig, err)
		}
		return database{sqltx.WrapDB(db, d), d, func(ctx context.Context) (endstate.Tx, error) {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return nil, err
			}
			return sqltx.Wrap(tx, d), nil
		}}, nil
	}
	panic("unreachable: Database has no other types")
}

// inTx runs f in a transaction.
func (d database) inTx(ctx context.Context, f func(tx endstate.Tx) error) error {
	tx, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = tx.Rollback(ctx) // after a commit it does nothing
	}()
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// Dialect tells sqltx, which an embedded Querier hides it from.
func (d database) Dialect() sqltx.Dialect { return d.dialect }

func (d database) sqlite() bool { return d.dialect == sqltx.SQLite }

// clock is the database's time of day.
func (d database) clock() string { return d.dialect.Clock() }

// later is the database's time of day plus a number of seconds, an expression.
func (d database) later(seconds string) string {
	if d.sqlite() {
		return "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', (" + seconds + ") || ' seconds')"
	}
	return "clock_timestamp() + make_interval(secs => " + seconds + ")"
}

// age is how many seconds ago a time was, an expression.
func (d database) age(at string) string {
	if d.sqlite() {
		return "(julianday('now') - julianday(" + at + ")) * 86400"
	}
	return "CAST(extract(epoch FROM clock_timestamp() - " + at + ") AS double precision)"
}

// elements is a subselect of the elements of a JSON array of strings, an expression, as values of an SQL type.
func (d database) elements(array, sqlType string) string {
	if d.sqlite() {
		return "(SELECT value FROM json_each(" + array + "))"
	}
	return "(SELECT CAST(element AS " + sqlType + ") FROM json_array_elements_text(CAST(" + array + " AS json)) AS element)"
}

// skipLocked is what a subselect ends with that another session's locks mustn't stop.
func (d database) skipLocked() string {
	if d.sqlite() {
		return "" // one writer at a time
	}
	return " FOR UPDATE SKIP LOCKED"
}

// moment scans a time: SQLite has it as text. It stays zero for NULL.
type moment struct{ time.Time }

// Scan implements sql.Scanner.
func (m *moment) Scan(value any) (err error) {
	switch v := value.(type) {
	case nil:
		m.Time = time.Time{}
	case time.Time:
		m.Time = v.UTC()
	case string:
		m.Time, err = time.Parse(time.RFC3339Nano, v)
	case []byte:
		m.Time, err = time.Parse(time.RFC3339Nano, string(v))
	default:
		err = errors.New("a time is neither a timestamp nor text")
	}
	return err
}
