package inbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// sqlDB is PostgreSQL or SQLite through database/sql, a statement at a time.
type sqlDB struct {
	db      *sql.DB
	dialect sqltx.Dialect
	sql     *statements
}

func (d *sqlDB) querier() endstate.Querier { return sqltx.WrapDB(d.db, d.dialect) }

func (d *sqlDB) migrate(ctx context.Context, fn func(endstate.Tx) error) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := fn(sqltx.Wrap(tx, d.dialect)); err != nil {
		return err
	}
	return tx.Commit()
}

// sqlSession is a transaction on a connection of its own, which SQLite's rollback needs.
type sqlSession struct {
	db       *sqlDB
	conn     *sql.Conn
	sqlTx    *sql.Tx
	end      context.CancelFunc // breaks it off
	inserted bool
	ended    bool // by a COMMIT
	over     bool
}

func (d *sqlDB) begin(ctx context.Context, dl *delivery) (session[*sql.Tx], []record, error) {
	if d.dialect == sqltx.SQLite {
		// A repeat needn't take SQLite's one write lock.
		if records, err := d.look(ctx, d.querier(), dl); err != nil || len(records) > 0 {
			return nil, records, err
		}
	}
	s, err := d.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	args := dl.recorded()
	if d.dialect == sqltx.Postgres {
		args = append(args, dl.lockKey())
	}
	tag, err := s.wrapped().Exec(ctx, d.sql.insert, args...)
	if err == nil && tag.RowsAffected() == 1 {
		s.inserted = true
		return s, nil, nil
	}
	s.rollback(ctx)
	if err != nil {
		return nil, nil, s.begun(err)
	}
	records, err := d.look(ctx, d.querier(), dl)
	return nil, records, err
}

func (d *sqlDB) reopen(ctx context.Context, dl *delivery) (_ session[*sql.Tx], records []record, held bool, err error) {
	s, err := d.open(ctx)
	if err != nil {
		return nil, nil, false, err
	}
	if held, err = s.lock(ctx, dl); err == nil {
		records, err = d.look(ctx, s.wrapped(), dl)
	}
	if err != nil {
		s.rollback(ctx)
		return nil, nil, false, s.begun(err)
	}
	return s, records, held, nil
}

// open begins a transaction.
func (d *sqlDB) open(ctx context.Context) (*sqlSession, error) {
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("acquire a connection: %w", err)
	}
	opts := &sql.TxOptions{}
	if d.dialect == sqltx.Postgres {
		opts.Isolation = sql.LevelReadCommitted // a snapshot for each statement: a lookup's is taken after the lock
	}
	tx, end, err := sqltx.Begin(ctx, conn, opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin: %w", err), conn.Close())
	}
	return &sqlSession{db: d, conn: conn, sqlTx: tx, end: end}, nil
}

func (s *sqlSession) wrapped() endstate.Tx { return sqltx.Wrap(s.sqlTx, s.db.dialect) }

// begun gives the error of a first statement its meaning: on SQLite, where that waits for every other writer, busy is one in
// progress.
func (s *sqlSession) begun(err error) error {
	if s.db.dialect == sqltx.SQLite && sqltx.Conflicted(err) {
		return fmt.Errorf("%w: %w", ErrInProgress, err)
	}
	return fmt.Errorf("begin: %w", err)
}

func (d *sqlDB) look(ctx context.Context, q endstate.Querier, dl *delivery) ([]record, error) {
	rows, err := q.Query(ctx, d.sql.lookup, dl.looked()...)
	if err != nil {
		return nil, fmt.Errorf("look up: %w", err)
	}
	return scanRecords(rows)
}

func (s *sqlSession) lock(ctx context.Context, dl *delivery) (held bool, err error) {
	if s.db.dialect == sqltx.SQLite {
		_, err = s.wrapped().Exec(ctx, s.db.sql.lock)
		return err == nil, err
	}
	err = s.wrapped().QueryRow(ctx, s.db.sql.lock, dl.lockKey()).Scan(&held)
	return held, err
}

func (s *sqlSession) tx() *sql.Tx { return s.sqlTx }

// intact says what is wrong with the transaction that the function has left. A driver's Commit needn't say that it rolled back:
// bun's pgdriver returns nil.
func (s *sqlSession) intact(ctx context.Context) error {
	if s.db.dialect == sqltx.SQLite {
		return nil
	}
	tells := false
	if err := s.conn.Raw(func(conn any) error {
		var c interface{ Conn() *pgx.Conn }
		if c, tells = conn.(interface{ Conn() *pgx.Conn }); tells && c.Conn().PgConn().IsBusy() { // its Commit looks at the rest
			return sqltx.ErrRowsOpen
		}
		return nil
	}); err != nil || tells {
		return err
	}
	err := sqltx.Savepoint(ctx, s.wrapped(), "endstate_handled")
	switch sqltx.State(err) {
	case sqltx.FailedTransaction:
		return fmt.Errorf("%w: %w", ErrTxAborted, err)
	case sqltx.NoTransaction:
		return fmt.Errorf("%w: %w", ErrTxEnded, err)
	}
	if errors.Is(err, sql.ErrTxDone) {
		return fmt.Errorf("%w: %w", ErrTxEnded, err)
	}
	return err
}

func (s *sqlSession) finish(ctx context.Context, dl *delivery, value []byte) error {
	if err := s.intact(ctx); err != nil {
		return err
	}
	if !s.inserted || value != nil {
		query, args := s.db.sql.handle, append(dl.recorded(), value)
		if s.inserted {
			query, args = s.db.sql.keep, []any{dl.consumer, dl.key, value}
		}
		tag, err := s.wrapped().Exec(ctx, query, args...)
		switch {
		case errors.Is(err, sql.ErrTxDone):
			return fmt.Errorf("%w: %w", ErrTxEnded, err)
		case err != nil:
			return recordError(err)
		case tag.RowsAffected() == 0:
			return errTaken
		}
	}
	stop := context.AfterFunc(ctx, s.end)
	defer stop()
	if err := s.sqlTx.Commit(); err != nil {
		switch {
		case errors.Is(err, sql.ErrTxDone):
			return fmt.Errorf("%w: %w", ErrTxEnded, err)
		case sqltx.RolledBack(err):
			return fmt.Errorf("%w: %w", ErrTxAborted, err)
		}
		return fmt.Errorf("commit: %w", err)
	}
	s.ended = true
	return nil
}

func (s *sqlSession) rollback(ctx context.Context) {
	if s.over {
		return
	}
	s.over = true
	defer s.end()
	if !s.ended {
		ctx, cancel := detached(ctx)
		defer cancel()
		stop := context.AfterFunc(ctx, s.end)
		_ = s.sqlTx.Rollback()
		stop()
		if s.db.dialect == sqltx.SQLite {
			// After a COMMIT that found the database busy the transaction is open, though database/sql thinks it ended.
			_, _ = s.conn.ExecContext(ctx, "ROLLBACK")
		}
	}
	_ = s.conn.Close()
}
