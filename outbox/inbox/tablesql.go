package inbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// sqlDB is PostgreSQL or SQLite through database/sql, a statement at a time.
type sqlDB struct {
	db      *sql.DB
	dialect sqltx.Dialect
	sql     *statements
}

func (d *sqlDB) querier() Querier { return sqltx.WrapDB(d.db, d.dialect) }

func (d *sqlDB) migrate(ctx context.Context, fn func(sqltx.Tx) error) error {
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
	db    *sqlDB
	conn  *sql.Conn
	sqlTx *sql.Tx
	ended bool // by a COMMIT
	over  bool
}

func (d *sqlDB) begin(ctx context.Context, dl *delivery) (session[*sql.Tx], []record, bool, error) {
	if d.dialect == sqltx.SQLite {
		// Repeats needn't take SQLite's one write lock.
		records, err := d.look(ctx, d.querier(), dl)
		if err != nil {
			return nil, nil, false, err
		}
		if _, over, _ := dl.judge(records); over {
			return nil, records, false, nil
		}
	}
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return nil, nil, false, fmt.Errorf("acquire a connection: %w", err)
	}
	opts := &sql.TxOptions{}
	if d.dialect == sqltx.Postgres {
		opts.Isolation = sql.LevelReadCommitted
	}
	// Its life is apart from ctx: database/sql would otherwise roll back from another goroutine when ctx ends.
	tx, err := conn.BeginTx(context.WithoutCancel(ctx), opts)
	if err != nil {
		return nil, nil, false, errors.Join(fmt.Errorf("begin: %w", err), conn.Close())
	}
	s := &sqlSession{db: d, conn: conn, sqlTx: tx}
	held, err := s.lock(ctx, dl)
	if err != nil {
		return s, nil, false, err
	}
	records, err := d.look(ctx, sqltx.Wrap(tx, d.dialect), dl)
	return s, records, held, err
}

func (d *sqlDB) look(ctx context.Context, q Querier, dl *delivery) ([]record, error) {
	rows, err := q.Query(ctx, d.sql.lookup, dl.looked()...)
	if err != nil {
		return nil, fmt.Errorf("look up: %w", err)
	}
	return scanRecords(rows)
}

func (s *sqlSession) lock(ctx context.Context, dl *delivery) (held bool, err error) {
	if s.db.dialect == sqltx.Postgres {
		err := s.sqlTx.QueryRowContext(ctx, s.db.sql.lock, dl.lockKey()).Scan(&held)
		return held, err
	}
	_, err = s.sqlTx.ExecContext(ctx, s.db.sql.lock)
	if sqltx.Conflicted(err) {
		return false, fmt.Errorf("%w: %w", ErrInProgress, err)
	}
	return err == nil, err
}

func (s *sqlSession) tx() *sql.Tx { return s.sqlTx }

func (s *sqlSession) finish(ctx context.Context, dl *delivery, value []byte) error {
	tag, err := sqltx.Wrap(s.sqlTx, s.db.dialect).Exec(ctx, s.db.sql.handle, dl.handling(value)...)
	switch {
	case errors.Is(err, sql.ErrTxDone):
		return fmt.Errorf("%w: %w", ErrTxEnded, err)
	case err != nil:
		return recordError(err)
	case tag.RowsAffected() == 0:
		return errTaken
	}
	if err := s.sqlTx.Commit(); err != nil {
		if sqltx.RolledBack(err) {
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
	if !s.ended {
		_ = s.sqlTx.Rollback()
		if s.db.dialect == sqltx.SQLite {
			// After a COMMIT that found the database busy the transaction is open, though database/sql thinks it ended.
			_, _ = s.conn.ExecContext(ctx, "ROLLBACK")
		}
	}
	_ = s.conn.Close()
}
