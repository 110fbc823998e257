package inbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// pgxDB is PostgreSQL through pgx: two round trips around the function, one to begin, lock and look, one to record and
// commit.
type pgxDB struct {
	pool *pgxpool.Pool
	sql  *statements
}

func (d *pgxDB) querier() Querier { return d.pool }

func (d *pgxDB) migrate(ctx context.Context, fn func(sqltx.Tx) error) error {
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error { return fn(tx) })
}

// pgxSession is a transaction on a connection of the pool.
type pgxSession struct {
	db    *pgxDB
	conn  *pgxpool.Conn
	lent  *sqltx.Lent
	ended bool // by a COMMIT
	over  bool
}

func (d *pgxDB) begin(ctx context.Context, dl *delivery) (session[pgx.Tx], []record, bool, error) {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return nil, nil, false, fmt.Errorf("acquire a connection: %w", err)
	}
	s := &pgxSession{db: d, conn: conn}
	batch := &pgx.Batch{}
	batch.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted}) // a snapshot for each statement: the lookup's comes after the lock
	batch.Queue(d.sql.lock, dl.lockKey())
	batch.Queue(d.sql.lookup, dl.looked()...)
	results := conn.Conn().SendBatch(ctx, batch)
	s.lent = sqltx.Lend(results.Tx(), ErrTxOwned)
	held, records, err := readBegun(results)
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return s, nil, false, fmt.Errorf("begin: %w", err)
	}
	return s, records, held, nil
}

func readBegun(results pgx.BatchResults) (held bool, records []record, err error) {
	if _, err := results.Exec(); err != nil {
		return false, nil, err
	}
	if err := results.QueryRow().Scan(&held); err != nil {
		return false, nil, err
	}
	rows, err := results.Query()
	if err != nil {
		return false, nil, err
	}
	records, err = scanRecords(rows)
	return held, records, err
}

// scanRecords reads the rows of lookup and closes them.
func scanRecords(rows pgx.Rows) ([]record, error) {
	defer rows.Close()
	var records []record
	for rows.Next() {
		var r record
		if err := rows.Scan(&r.key, &r.id, &r.digest, &r.state, &r.value); err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	rows.Close()
	return records, rows.Err()
}

func (s *pgxSession) tx() pgx.Tx { return s.lent }

func (s *pgxSession) finish(ctx context.Context, dl *delivery, value []byte) error {
	s.lent.Close()
	conn := s.conn.Conn()
	switch {
	case conn.IsClosed():
		return errors.New("the connection was lost before the commit")
	case conn.PgConn().IsBusy():
		return failure{errors.New("the connection is busy: the rows of a query were not closed")}
	case conn.PgConn().TxStatus() == 'I':
		return ErrTxEnded
	case conn.PgConn().TxStatus() == 'E':
		return ErrTxAborted
	}
	batch := &pgx.Batch{}
	batch.Queue(s.db.sql.must, dl.handling(value)...)
	batch.Queue("commit")
	results := conn.SendBatch(ctx, batch)
	_, err := results.Exec()
	if err != nil {
		_ = results.Close() // which reports the same
		return recordError(err)
	}
	tag, err := results.Exec()
	closeErr := results.Close()
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if tag.String() != "COMMIT" {
		return ErrTxAborted // the server rolled back
	}
	s.ended = true
	_ = closeErr // the COMMIT was answered; what came after concerns only the connection, which the pool throws away
	return nil
}

// recordError tells what an error of handle or must means.
func recordError(err error) error {
	switch sqltx.State(err) {
	case sqltx.DivisionByZero, sqltx.UniqueViolation:
		return fmt.Errorf("%w: %w", errTaken, err)
	case sqltx.FailedTransaction:
		return fmt.Errorf("%w: %w", ErrTxAborted, err)
	}
	return fmt.Errorf("record the event: %w", err)
}

func (s *pgxSession) rollback(ctx context.Context) {
	if s.over {
		return
	}
	s.over = true
	s.lent.Close()
	if conn := s.conn.Conn(); !s.ended && !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		if _, err := conn.Exec(ctx, "rollback"); err != nil {
			_ = conn.Close(ctx) // it must not serve another caller
		}
	}
	s.conn.Release()
}
