package relay

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// database is a pgx pool, or database/sql on PostgreSQL or SQLite. Its Querier runs each statement in a transaction of its own.
type database struct {
	endstate.Querier
	dialect sqltx.Dialect
	begin   func(ctx context.Context) (endstate.Tx, error)
	pool    *pgxpool.Pool // one of the two
	sql     *sql.DB
	within  bool // a transaction that somebody else ends
	// patience is how long an answer is waited for, to a statement or a whole transaction; 0 is as long as the context lasts. Over a
	// connection that has gone silent none comes, and TCP may take an hour to say so, while the lease is renewed over another one.
	patience time.Duration
}

// bounded is ctx for a statement or a transaction.
func (d database) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if d.patience == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d.patience)
}

// Exec sends a statement.
func (d database) Exec(ctx context.Context, statement string, args ...any) (pgconn.CommandTag, error) {
	ctx, cancel := d.bounded(ctx)
	defer cancel()
	return d.Querier.Exec(ctx, statement, args...)
}

// QueryRow sends a query when its row is scanned.
func (d database) QueryRow(ctx context.Context, query string, args ...any) pgx.Row {
	return rowFunc(func(dest ...any) error {
		ctx, cancel := d.bounded(ctx)
		defer cancel()
		return d.Querier.QueryRow(ctx, query, args...).Scan(dest...)
	})
}

type rowFunc func(dest ...any) error

func (f rowFunc) Scan(dest ...any) error { return f(dest...) }

// abandoned ends a transaction of ours whose client is gone without a word: the network may know for hours after the lease, and until
// then the cursors that it has locked would be nobody's.
const abandoned = "SET LOCAL idle_in_transaction_session_timeout = '5s'"

// open completes a database of which only the pool or the *sql.DB is set.
func (d database) open(dialect string) (database, error) {
	switch {
	case d.pool != nil:
		if dialect != "" && dialect != string(sqltx.Postgres) {
			return d, fmt.Errorf("%w: relay.Config.Dialect is %q, but a pgx pool is PostgreSQL; use a *sql.DB", outbox.ErrConfig, dialect)
		}
		d.Querier, d.dialect = d.pool, sqltx.Postgres
		d.begin = func(ctx context.Context) (endstate.Tx, error) {
			return d.pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: "BEGIN ISOLATION LEVEL READ COMMITTED; " + abandoned}) // in one trip
		}
		return d, nil
	case d.sql == nil:
		return d, fmt.Errorf("%w: the database is nil", outbox.ErrConfig)
	}
	var err error
	if d.dialect, err = sqltx.Choose(d.sql, dialect); err != nil {
		return d, fmt.Errorf("%w: %w", outbox.ErrConfig, err)
	}
	d.Querier, d.begin = sqltx.WrapDB(d.sql, d.dialect), d.beginSQL
	return d, nil
}

func (d database) beginSQL(ctx context.Context) (endstate.Tx, error) {
	if d.sqlite() {
		tx, err := d.sql.BeginTx(ctx, nil)
		return sqltx.Wrap(tx, d.dialect), err
	}
	tx, err := d.sql.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return nil, err
	}
	if _, err := tx.ExecContext(ctx, abandoned); err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	return sqltx.Wrap(tx, d.dialect), nil
}

// in is the database inside a transaction, which somebody else ends.
func (d database) in(tx endstate.Tx) database {
	d.Querier, d.within = tx, true
	d.begin = func(context.Context) (endstate.Tx, error) { return unended{tx}, nil }
	return d
}

// unended is a transaction whose part ends without it.
type unended struct{ endstate.Tx }

func (unended) Commit(context.Context) error   { return nil }
func (unended) Rollback(context.Context) error { return nil }

// inTx runs f in a transaction, in READ COMMITTED.
func (d database) inTx(ctx context.Context, f func(ctx context.Context, tx endstate.Tx) error) error {
	ctx, cancel := d.bounded(ctx)
	defer cancel()
	tx, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = tx.Rollback(ctx) // after a commit it does nothing
	}()
	if err := f(ctx, tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// run sends a statement of which nothing but its failure is of interest.
func (d database) run(ctx context.Context, statement string, args ...any) error {
	_, err := d.Exec(ctx, statement, args...)
	return err
}

// each hands the rows of a query to scan, one by one.
func each(ctx context.Context, q endstate.Querier, scan func(pgx.Row) error, query string, args ...any) error {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	return drain(rows, scan)
}

func drain(rows pgx.Rows, scan func(pgx.Row) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// pins keep the planner to the indexes, whatever statistics it has, so that one plan, made on the empty table, does for a million
// rows: making another one takes as long as reading five hundred.
// The settings end with the transaction, so that they go through a pooler and stay out of others' statements.
const pins = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true),
	set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), set_config('enable_material', 'off', true), set_config('jit', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)`

// pin pins the plans of a transaction's statements.
func (d database) pin(ctx context.Context, tx endstate.Tx) error {
	if d.sqlite() {
		return nil
	}
	_, err := tx.Exec(ctx, pins)
	return err
}

// What goes around the pins in a transaction that goes on: rolling back to a savepoint takes settings back too. Neither takes a
// transaction id.
const (
	savePins = "SAVEPOINT endstate_pins"
	dropPins = "ROLLBACK TO SAVEPOINT endstate_pins"
)

// rows hands the rows of a query whose plan is pinned to scan, one by one.
func (d database) rows(ctx context.Context, scan func(pgx.Row) error, query string, args ...any) error {
	return d.pinned(ctx, func(rows pgx.Rows) error { return drain(rows, scan) }, query, args...)
}

// row scans the one row of a query whose plan is pinned.
func (d database) row(ctx context.Context, dest []any, query string, args ...any) error {
	return d.rows(ctx, func(row pgx.Row) error { return row.Scan(dest...) }, query, args...)
}

// pinned runs a query whose plan is pinned, in a transaction that has written nothing, and hands its rows to collect, which closes
// them.
func (d database) pinned(ctx context.Context, collect func(pgx.Rows) error, query string, args ...any) error {
	ctx, cancel := d.bounded(ctx)
	defer cancel()
	read := func(rows pgx.Rows, err error) error {
		if err != nil {
			return err
		}
		return collect(rows)
	}
	if d.dialect == sqltx.SQLite {
		return read(d.Query(ctx, query, args...))
	}
	before, after := []string{pins}, []string(nil)
	if d.within {
		before, after = []string{savePins, pins}, []string{dropPins}
	}
	q, ok := d.Querier.(interface {
		SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
	})
	if !ok {
		return d.inTx(ctx, func(ctx context.Context, tx endstate.Tx) (err error) {
			for _, statement := range before {
				if _, err := tx.Exec(ctx, statement); err != nil {
					return err
				}
			}
			err = read(tx.Query(ctx, query, args...))
			for _, statement := range after {
				if err == nil {
					_, err = tx.Exec(ctx, statement)
				}
			}
			return err
		})
	}
	// One trip, and one transaction: a pipeline is one up to its end.
	var batch pgx.Batch
	for _, statement := range before {
		batch.Queue(statement)
	}
	batch.Queue(query, args...)
	for _, statement := range after {
		batch.Queue(statement)
	}
	results := q.SendBatch(ctx, &batch)
	for range before {
		if _, err := results.Exec(); err != nil {
			return errors.Join(err, results.Close())
		}
	}
	err := read(results.Query())
	return errors.Join(err, results.Close())
}

// checkPooler says which setting a connection lacks that goes through a pooler. Such a connection has been told another process
// id than its server's own; behind it, a statement that was prepared once needn't be there again.
func (d database) checkPooler(ctx context.Context) error {
	check := func(conn *pgx.Conn) error {
		if conn.Config().DefaultQueryExecMode != pgx.QueryExecModeCacheStatement {
			return nil
		}
		var pid uint32
		if err := conn.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeExec).Scan(&pid); err != nil {
			return err
		}
		if pid == conn.PgConn().PID() {
			return nil
		}
		return fmt.Errorf("%w: the connection goes through a pooler, where prepared statements get lost: set default_query_exec_mode=cache_describe (or exec) in its connection string", outbox.ErrConfig)
	}
	switch {
	case d.sqlite():
		return nil
	case d.pool != nil:
		return d.pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error { return check(c.Conn()) })
	}
	conn, err := d.sql.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(raw any) error {
		if c, ok := raw.(interface{ Conn() *pgx.Conn }); ok {
			return check(c.Conn())
		}
		return nil
	})
}

// drop ends the idle connections if err says that theirs is a server that was read-only when they began: they stay so.
func (d database) drop(ctx context.Context, err error) {
	if sqltx.State(err) != sqltx.ReadOnly {
		return
	}
	if d.pool != nil {
		d.pool.Reset()
		return
	}
	for range d.sql.Stats().Idle {
		conn, err := d.sql.Conn(ctx)
		if err != nil {
			return
		}
		_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // which closes it
		_ = conn.Close()
	}
}
