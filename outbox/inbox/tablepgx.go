package inbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// pgxDB is PostgreSQL through pgx: two round trips around the function, one to begin and record, one to commit. A repeat takes
// two as well.
type pgxDB struct {
	pool *pgxpool.Pool
	sql  *statements
}

func (d *pgxDB) querier() endstate.Querier { return d.pool }

func (d *pgxDB) migrate(ctx context.Context, fn func(endstate.Tx) error) error {
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error { return fn(tx) })
}

// pgxSession is a transaction on a connection of the pool.
type pgxSession struct {
	db       *pgxDB
	conn     *pgxpool.Conn
	lent     *sqltx.Lent
	inserted bool
	ended    bool // by a COMMIT
	over     bool
}

func (d *pgxDB) begin(ctx context.Context, dl *delivery) (session[pgx.Tx], []record, error) {
	batch := newBatch()
	batch.Queue(d.sql.insert, append(dl.recorded(), dl.lockKey())...)
	var inserted bool
	s, err := d.open(ctx, batch, func(results pgx.BatchResults) error {
		tag, err := results.Exec()
		inserted = tag.RowsAffected() == 1
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if inserted {
		s.inserted = true
		return s, nil, nil
	}
	defer s.rollback(ctx)
	batch = &pgx.Batch{}
	batch.Queue("rollback")
	batch.Queue(d.sql.lookup, dl.looked()...)
	results := s.conn.Conn().SendBatch(ctx, batch)
	_, err = results.Exec()
	var records []record
	if err == nil {
		records, err = queryRecords(results)
	}
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		err = fmt.Errorf("look up: %w", err)
	}
	return nil, records, err
}

func (d *pgxDB) reopen(ctx context.Context, dl *delivery) (_ session[pgx.Tx], records []record, held bool, err error) {
	batch := newBatch()
	batch.Queue(d.sql.lock, dl.lockKey())
	batch.Queue(d.sql.lookup, dl.looked()...)
	s, err := d.open(ctx, batch, func(results pgx.BatchResults) error {
		err := results.QueryRow().Scan(&held)
		if err == nil {
			records, err = queryRecords(results)
		}
		return err
	})
	if err != nil {
		return nil, nil, false, err
	}
	return s, records, held, nil
}

// newBatch is a batch that begins a transaction, with a snapshot for each statement: a lookup's is taken after the lock.
func newBatch() *pgx.Batch {
	batch := &pgx.Batch{}
	batch.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	return batch
}

// open sends a batch that begins a transaction.
func (d *pgxDB) open(ctx context.Context, batch *pgx.Batch, read func(pgx.BatchResults) error) (*pgxSession, error) {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("acquire a connection: %w", err)
	}
	s := &pgxSession{db: d, conn: conn}
	results := conn.Conn().SendBatch(ctx, batch)
	s.lent = sqltx.Lend(results.Tx(), ErrTxOwned)
	_, err = results.Exec()
	if err == nil {
		err = read(results)
	}
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		s.rollback(ctx)
		return nil, fmt.Errorf("begin: %w", err)
	}
	return s, nil
}

// queryRecords reads the result of a lookup in a batch.
func queryRecords(results pgx.BatchResults) ([]record, error) {
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	return scanRecords(rows)
}

// scanRecords reads the rows of lookup and closes them.
func scanRecords(rows pgx.Rows) ([]record, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r record, err error) {
		err = row.Scan(&r.key, &r.id, &r.digest, &r.state, &r.value)
		return r, err
	})
}

func (s *pgxSession) tx() pgx.Tx { return s.lent }

func (s *pgxSession) finish(ctx context.Context, dl *delivery, value []byte) error {
	s.lent.Close()
	conn := s.conn.Conn()
	switch {
	case conn.IsClosed():
		return errors.New("the connection was lost before the commit")
	case conn.PgConn().IsBusy():
		return failure{sqltx.ErrRowsOpen}
	case conn.PgConn().TxStatus() == 'I':
		return ErrTxEnded
	case conn.PgConn().TxStatus() == 'E':
		return ErrTxAborted
	}
	tag, err := s.commit(ctx, dl, value)
	if err != nil {
		return err
	}
	if tag.String() != "COMMIT" {
		return ErrTxAborted // the server rolled back
	}
	s.ended = true
	return nil
}

// commit commits, in one trip with the last record there is to write, if any.
func (s *pgxSession) commit(ctx context.Context, dl *delivery, value []byte) (tag pgconn.CommandTag, err error) {
	batch := &pgx.Batch{}
	var signal sqltx.Signal
	switch {
	case !s.inserted:
		signal = sqltx.NewSignal(uuid.New())
		batch.Queue(s.db.sql.must, append(dl.recorded(), value, string(signal))...)
	case value != nil:
		batch.Queue(s.db.sql.keep, dl.consumer, dl.key, value)
	default:
		if tag, err = s.conn.Exec(ctx, "commit"); err != nil {
			err = fmt.Errorf("commit: %w", err)
		}
		return tag, err
	}
	batch.Queue("commit")
	results := s.conn.SendBatch(ctx, batch)
	defer results.Close() // of what comes after COMMIT's answer: it concerns only the connection, which the pool throws away
	if _, err := results.Exec(); err != nil {
		if _, taken := signal.Raised(err); taken {
			return tag, fmt.Errorf("%w: %w", errTaken, err)
		}
		return tag, recordError(err)
	}
	if tag, err = results.Exec(); err != nil {
		err = fmt.Errorf("commit: %w", err)
	}
	return tag, err
}

// recordError tells what an error of handle or must means.
func recordError(err error) error {
	switch sqltx.State(err) {
	case sqltx.UniqueViolation:
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
		ctx, cancel := detached(ctx)
		defer cancel()
		if _, err := conn.Exec(ctx, "rollback"); err != nil {
			_ = conn.Close(ctx) // it must not serve another caller
		}
	}
	s.conn.Release()
}
