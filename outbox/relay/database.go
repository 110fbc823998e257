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

// Exec sends a statement.
func (d database) Exec(ctx context.Context, statement string, args ...any) (tag pgconn.CommandTag, err error) {
	err = d.alone(ctx, func(ctx context.Context) error {
		tag, err = d.Querier.Exec(ctx, statement, args...)
		return err
	})
	return tag, err
}

// QueryRow sends a query when its row is scanned.
func (d database) QueryRow(ctx context.Context, query string, args ...any) pgx.Row {
	return rowFunc(func(dest ...any) error {
		return d.alone(ctx, func(ctx context.Context) error { return d.Querier.QueryRow(ctx, query, args...).Scan(dest...) })
	})
}

// alone sends a statement that is a transaction by itself, unless d is in one. Its isolation is the connection's default, which may be
// stricter than that of our transactions: what PostgreSQL breaks off for that, of which nothing is left, is sent again.
func (d database) alone(ctx context.Context, send func(ctx context.Context) error) (err error) {
	ctx, cancel := d.bounded(ctx)
	defer cancel()
	for range 10 {
		if err = send(ctx); err == nil || d.within || d.sqlite() || !sqltx.Conflicted(err) {
			return err
		}
	}
	return err
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
