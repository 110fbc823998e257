package finalize

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// sqlDB is PostgreSQL or SQLite through database/sql, a statement at a time.
type sqlDB struct {
	*core
	db      *sql.DB
	dialect sqltx.Dialect
	watcher watcher
	writes  chan struct{} // nil but for SQLite, which has one writer at a time: holds who writes
}

// again reports whether to look at what was written once more, at the end of the transaction. On SQLite that costs no trip,
// and a trigger can't be told from others without reading its text.
func (d *sqlDB) again(ctx context.Context, q endstate.Querier, a *attempt) (_ bool, err error) {
	if _, ok := readable(d.cfg.Guard); !ok {
		return false, nil
	}
	if d.dialect == sqltx.SQLite {
		return true, nil
	}
	plans := d.cfg.guards.Plans(a.ref.Key.Shape())
	if plans == nil {
		return true, nil
	}
	w, known := d.watcher.known()
	if !known {
		w, err = d.watcher.look(ctx, q, tables(plans, d.cfg.Outbox))
	}
	return w.Again, err
}

func (d *sqlDB) acquire(ctx context.Context) (*sql.Conn, error) {
	return acquire(ctx, d.cfg.ClaimTimeout, d, d.db.Conn)
}

func (d *sqlDB) taken() (taken, of int) {
	s := d.db.Stats()
	return s.InUse, s.MaxOpenConnections
}

func (d *sqlDB) query(ctx context.Context, fn func(endstate.Querier) error) error {
	conn, err := d.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return fn(sqltx.WrapDB(conn, d.dialect))
}

func (d *sqlDB) querier() endstate.Querier { return sqltx.WrapDB(d.db, d.dialect) }

func (d *sqlDB) migrate(ctx context.Context, fn func(endstate.Tx) error) error {
	pause := d.backoff()
	for n := 1; ; n++ {
		err := d.migrateOnce(ctx, fn)
		if !sqltx.Conflicted(err) || n/10 >= d.cfg.MaxAttempts || sleep.For(ctx, pause.NextBackOff()) != nil {
			return err
		}
	}
}

func (d *sqlDB) migrateOnce(ctx context.Context, fn func(endstate.Tx) error) error {
	s, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer s.rollback(ctx)
	if err := fn(s.guardTx); err != nil {
		return err
	}
	return s.commit(ctx)
}

func (d *sqlDB) transacts(ctx context.Context) error {
	if d.dialect == sqltx.SQLite {
		return nil // it might wait for another one's
	}
	return d.migrateOnce(ctx, func(endstate.Tx) error { return nil })
}

// sqlSession is a transaction on a connection of its own, or a savepoint in the caller's.
type sqlSession struct {
	db      *sqlDB
	conn    *sql.Conn // nil in the caller's transaction
	own     *sql.Tx   // likewise
	cancel  context.CancelFunc
	sqlTx   endstate.SQLTx
	guardTx endstate.Tx
	ended   bool
	written func() // lets the next one write
}

// begin opens a transaction whose life is apart from ctx.
func (d *sqlDB) begin(ctx context.Context) (*sqlSession, error) {
	began := time.Now()
	written, err := d.turnToWrite(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := d.acquire(ctx)
	if err != nil {
		written()
		return nil, err
	}
	opts := &sql.TxOptions{}
	if d.dialect == sqltx.Postgres {
		opts.Isolation = sql.LevelReadCommitted
	}
	tx, cancel, err := sqltx.Begin(ctx, conn, opts)
	if err != nil {
		err = fmt.Errorf("begin: %w", d.refused(ctx, conn, began, err))
		_ = conn.Close()
		written()
		return nil, err
	}
	s := &sqlSession{db: d, written: written, conn: conn, own: tx, cancel: cancel, sqlTx: tx, guardTx: sqltx.Wrap(tx, d.dialect)}
	if err := d.path.look(ctx, s.guardTx, d.now()); err != nil {
		s.rollback(ctx)
		if errors.Is(err, ErrTenant) {
			d.cache.clear() // which may hold what another connection showed
		}
		return nil, err
	}
	return s, nil
}

func (d *sqlDB) claim(ctx context.Context, a *attempt) (*sqlSession, guard.Record, error) {
	if r, ok := d.cfg.Guard.(guard.Reader); ok && d.dialect == sqltx.SQLite {
		// A claim takes SQLite's one write lock; a loser needn't.
		var rec guard.Record
		err := d.query(ctx, func(q endstate.Querier) (err error) { rec, err = r.Read(ctx, q, a.ref); return err })
		if err == nil && rec.Final || errors.Is(err, errNoConnection) {
			return nil, rec, err
		}
	}
	s, err := d.begin(ctx)
	if err != nil {
		return nil, guard.Record{}, withCause(ctx, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.ClaimTimeout, ErrBusy)
	defer cancel()
	rec, err := claimed(ctx, s, s.claim, a)
	if err != nil || rec.Final {
		return nil, rec, err
	}
	return s, rec, nil
}

func (d *sqlDB) claimIn(ctx context.Context, tx endstate.SQLTx, a *attempt) (*sqlSession, guard.Record, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.ClaimTimeout, ErrBusy)
	defer cancel()
	s := &sqlSession{db: d, sqlTx: tx, guardTx: sqltx.Wrap(tx, d.dialect)}
	if err := sqltx.Savepoint(ctx, s.guardTx, savepoint); err != nil {
		s.ended = true
		return nil, guard.Record{}, withCause(ctx, s.told(err))
	}
	rec, err := claimed(ctx, s, s.claim, a)
	if err != nil || rec.Final {
		return nil, rec, err
	}
	return s, rec, nil
}

func (s *sqlSession) claim(ctx context.Context, a *attempt) (guard.Record, error) {
	rec, err := s.db.cfg.Guard.Claim(ctx, s.guardTx, a.ref)
	if err == nil && !rec.Final && s.db.dialect == sqltx.SQLite {
		_, err = s.guardTx.Exec(ctx, "SAVEPOINT "+callbackSavepoint)
	}
	if err != nil {
		return rec, fmt.Errorf("claim: %w", err)
	}
	return rec, nil
}

const callbackSavepoint = savepoint + "_callback"

// intact says whether the callback left the transaction open: with "COMMIT" as a statement it can end it behind
// database/sql's back, and SQLite rolls back by itself after some errors. The statements that follow would then be committed
// one by one.
func (s *sqlSession) intact(ctx context.Context) error {
	if s.db.dialect == sqltx.SQLite {
		// The savepoint went with its transaction.
		_, err := s.guardTx.Exec(ctx, "RELEASE SAVEPOINT "+callbackSavepoint)
		if sqltx.Incomplete(err) {
			err = fmt.Errorf("%w: %w", ErrTxEnded, err)
		}
		return s.told(err)
	}
	if s.conn != nil {
		var status error
		known := false
		err := s.conn.Raw(func(driverConn any) error {
			if c, ok := driverConn.(interface{ Conn() *pgx.Conn }); ok {
				known, status = true, usable(c.Conn())
			}
			return nil
		})
		if err != nil || known {
			return errors.Join(err, status)
		}
	}
	// Outside of a transaction there can be no savepoint.
	err := sqltx.Savepoint(ctx, s.guardTx, callbackSavepoint)
	if errors.Is(err, sqltx.ErrRowsOpen) && s.conn == nil {
		s.ended = true
		_ = s.sqlTx.Rollback() // what follows would be answered late as well, and the caller must not commit what couldn't be undone
	}
	return s.told(err)
}

// told gives an error of a statement the meaning that the transaction's state gives it.
func (s *sqlSession) told(err error) error {
	switch {
	case sqltx.RolledBack(err):
		return fmt.Errorf("%w: %w", ErrTxAborted, err)
	case errors.Is(err, sql.ErrTxDone), sqltx.State(err) == sqltx.NoTransaction:
		return fmt.Errorf("%w: %w", ErrTxEnded, err)
	case sqltx.State(err) == sqltx.FailedTransaction:
		return fmt.Errorf("%w: %w", ErrTxAborted, err)
	}
	return err
}

func (s *sqlSession) finish(ctx context.Context, a *attempt) (guard.Record, error) {
	if err := s.intact(ctx); err != nil {
		return guard.Record{}, err
	}
	rec, err := s.write(ctx, a)
	if err != nil {
		return rec, s.stale(ctx, a, err)
	}
	if s.conn == nil {
		if _, err := s.guardTx.Exec(ctx, "RELEASE SAVEPOINT "+savepoint); err != nil {
			return rec, s.told(err)
		}
		s.ended = true
		return rec, nil
	}
	if err := ctx.Err(); err != nil {
		return rec, context.Cause(ctx)
	}
	return rec, s.end(ctx)
}

// write settles and writes the events.
func (s *sqlSession) write(ctx context.Context, a *attempt) (guard.Record, error) {
	rec, err := s.db.cfg.Guard.Settle(ctx, s.guardTx, a.ref, a.transition())
	if err != nil {
		return rec, s.told(settleOwnError(err))
	}
	if err := a.kept(rec); err != nil {
		return rec, err
	}
	var stored int64
	for query, args := range outboxSQL(s.db.cfg.Outbox).Inserts(s.db.dialect, a.rows()) {
		tag, err := s.guardTx.Exec(ctx, query, args...)
		if err != nil {
			return rec, s.told(fmt.Errorf("%w: %w", errEvents, err))
		}
		stored += tag.RowsAffected()
	}
	if err := allStored(ctx, s.db.cfg.Outbox, s.guardTx, a, stored); err != nil {
		return rec, s.told(err)
	}
	again, err := s.db.again(ctx, s.guardTx, a)
	if err == nil && again {
		err = keptStill(ctx, s.db.cfg.Guard, s.guardTx, a)
	}
	return rec, s.told(err)
}

// end commits, and gives an error the meaning that it has for the attempt.
func (s *sqlSession) end(ctx context.Context) error {
	err := s.commit(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrTxDone), sqltx.RolledBack(err):
		return s.told(err)
	case !sqltx.Definite(err):
		return fmt.Errorf("%w: commit: %w", errUnanswered, err)
	}
	return fmt.Errorf("commit: %w", err)
}

// commit commits. When ctx ends before the answer is there, it gives the connection up, and the answer is unknown.
func (s *sqlSession) commit(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	if err := s.sqlTx.Commit(); err != nil {
		return err
	}
	s.ended = true
	return nil
}

func (s *sqlSession) outside() endstate.Querier {
	if s.conn == nil {
		return s.guardTx
	}
	return sqltx.WrapDB(s.db.db, s.db.dialect)
}

func (s *sqlSession) callers() bool { return s.conn == nil }

func (s *sqlSession) rollback(ctx context.Context) {
	ctx, cancel := undoing(ctx)
	defer cancel()
	if s.conn == nil {
		if !s.ended {
			_, err := s.guardTx.Exec(ctx, "ROLLBACK TO SAVEPOINT "+savepoint)
			if err == nil {
				_, err = s.guardTx.Exec(ctx, "RELEASE SAVEPOINT "+savepoint)
			}
			if err != nil {
				_ = s.sqlTx.Rollback() // the caller must not commit what couldn't be undone
			}
		}
		s.ended = true
		return
	}
	if !s.ended {
		s.ended = true
		stop := context.AfterFunc(ctx, s.cancel)
		_ = s.sqlTx.Rollback()
		stop()
		if s.db.dialect == sqltx.SQLite {
			// After a COMMIT that found the database busy the transaction is open, though database/sql thinks it ended.
			_, _ = s.conn.ExecContext(ctx, "ROLLBACK")
		}
	}
	s.cancel()
	_ = s.conn.Close()
	s.written()
}
