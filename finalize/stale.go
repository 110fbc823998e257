package finalize

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// A session keeps default_transaction_read_only as it was when it began, and one that was opened to what is a replica by now
// stays with it. Such a connection must not go back to its pool. Another one may do: the call runs again, until a connection
// that was opened meanwhile says the same, which is the database's word.

// errStale marks an error of a session that began when it could not write.
var errStale = errors.New("the connection was opened while it could only read")

// sessionState returns whether the session as such can only read, and its age in seconds.
const sessionState = `SELECT pg_catalog.pg_is_in_recovery() OR pg_catalog.current_setting('default_transaction_read_only')::bool,
extract(epoch FROM pg_catalog.clock_timestamp() - backend_start)::float8 FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()`

// errReplica marks the error of a BEGIN READ WRITE on a session that can only read.
var errReplica = errors.New("the session takes no writes")

// staleness looks at the session in which a call that began then, outside of a transaction by now, was refused as read-only: whether
// to drop it, and with which error. ask sends sessionState there.
func staleness[R interface{ Scan(...any) error }](began time.Time, err error, ask func() R) (drop bool, _ error) {
	var readOnly bool
	var age float64
	asked := time.Since(began) // before the server looks at its clock: an answer may take longer than the connection is older than the call
	if ask().Scan(&readOnly, &age) != nil || !readOnly {
		return false, err // it was the transaction that could only read
	}
	if age > asked.Seconds() {
		err = fmt.Errorf("%w: %w", errStale, err)
	}
	return true, err
}

// stale gives the session's connection up if it can only read. The transaction is rolled back then.
func (s *pgxSession) stale(ctx context.Context, a *attempt, err error) error {
	if s.pooled == nil {
		return err
	}
	return dropStale(ctx, s.conn, a, err)
}

// release gives a connection back after a statement that ended with err, unless that says that it can only read.
func (d *pgxDB) release(ctx context.Context, pooled *pgxpool.Conn, a *attempt, err error) error {
	defer pooled.Release()
	return dropStale(ctx, pooled.Conn(), a, err)
}

func dropStale(ctx context.Context, conn *pgx.Conn, a *attempt, err error) error {
	if sqltx.State(err) != sqltx.ReadOnly || conn.IsClosed() {
		return err
	}
	ctx, cancel := undoing(ctx)
	defer cancel()
	if conn.PgConn().TxStatus() != 'I' {
		if _, rollbackErr := conn.Exec(ctx, "rollback"); rollbackErr != nil {
			_ = conn.Close(ctx)
			return err
		}
	}
	drop, err := staleness(a.start, err, func() pgx.Row { return conn.QueryRow(ctx, sessionState) })
	if drop {
		_ = conn.Close(ctx)
	}
	return err
}

func (s *sqlSession) stale(ctx context.Context, a *attempt, err error) error {
	if s.conn == nil || sqltx.State(err) != sqltx.ReadOnly {
		return err
	}
	ctx, cancel := undoing(ctx)
	defer cancel()
	if rollbackErr := s.sqlTx.Rollback(); rollbackErr != nil && !errors.Is(rollbackErr, sql.ErrTxDone) {
		return err
	}
	s.ended = true
	drop, err := staleness(a.start, err, func() *sql.Row { return s.conn.QueryRowContext(ctx, sessionState) })
	if drop {
		_ = s.conn.Raw(func(any) error { return driver.ErrBadConn })
	}
	return err
}

// refused gives a connection up that can only read, where the driver begins READ WRITE, as lib/pq does: a replica refuses that.
func (d *sqlDB) refused(ctx context.Context, conn *sql.Conn, began time.Time, err error) error {
	if sqltx.State(err) != sqltx.Unsupported {
		return err
	}
	drop, err := staleness(began, err, func() *sql.Row { return conn.QueryRowContext(ctx, sessionState) })
	if drop {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn })
		err = fmt.Errorf("%w: %w", errReplica, err)
	}
	return err
}
