package finalize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// pgxDB is PostgreSQL through pgx. With the library's guards a winner takes two round trips around its callback (begin and
// claim; settle, events and commit) and Settle takes one.
type pgxDB struct {
	pool    *pgxpool.Pool
	cfg     Config
	plans   sync.Map // of a key's shape to its *joined, nil where the guard has no plan
	watcher watcher

	interrupts sync.Pool
}

func newPgxDB(pool *pgxpool.Pool, cfg Config) *pgxDB {
	return &pgxDB{pool: pool, cfg: cfg, watcher: watcher{every: watchEvery}, interrupts: sync.Pool{New: newInterrupt}}
}

func (d *pgxDB) query(ctx context.Context, fn func(endstate.Querier) error) error {
	conn, err := d.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return fn(conn)
}

// taken is how many connections of the pool are in use, and how many it may have; 0: any number.
func (d *pgxDB) taken() (taken, of int) {
	s := d.pool.Stat()
	return int(s.AcquiredConns()), int(s.MaxConns())
}

func (d *pgxDB) querier() endstate.Querier { return d.pool }

func (d *pgxDB) migrate(ctx context.Context, fn func(endstate.Tx) error) error {
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error { return fn(tx) })
}

func (d *pgxDB) transacts(ctx context.Context) error {
	conn, err := d.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return pgx.BeginFunc(ctx, conn, func(pgx.Tx) error { return nil })
}

// pgxSession is a transaction on a connection of the pool, or a savepoint in the caller's.
type pgxSession struct {
	db     *pgxDB
	plan   *joined
	conn   *pgx.Conn
	pooled *pgxpool.Conn // nil in the caller's transaction
	cb     *sqltx.Lent
	again  bool // look again before the commit
	ended  bool

	commit string
	undo   []string
}

func (d *pgxDB) claim(ctx context.Context, a *attempt) (session[pgx.Tx], guard.Record, error) {
	pooled, err := d.acquire(ctx)
	if err != nil {
		return nil, guard.Record{}, err
	}
	s := &pgxSession{db: d, plan: d.plan(a), conn: pooled.Conn(), pooled: pooled, commit: "commit", undo: undoAll}
	rec, err := claimed(ctx, s, s.claim, a)
	if err != nil || rec.Final {
		return nil, rec, err
	}
	return s, rec, nil
}

const savepoint = "endstate"

var (
	undoAll       = []string{"rollback"}
	undoSavepoint = []string{"rollback to savepoint " + savepoint, "release savepoint " + savepoint}
)

func (d *pgxDB) claimIn(ctx context.Context, tx pgx.Tx, a *attempt) (session[pgx.Tx], guard.Record, error) {
	if tx == nil {
		return nil, guard.Record{}, errors.New("tx is nil")
	}
	// An empty batch asks the transaction itself, without a trip: once it has ended, its connection may be serving another
	// one, and that would answer for it.
	if err := tx.SendBatch(ctx, &pgx.Batch{}).Close(); errors.Is(err, pgx.ErrTxClosed) {
		return nil, guard.Record{}, ErrTxEnded
	}
	conn := tx.Conn()
	if err := usable(conn); err != nil {
		return nil, guard.Record{}, err
	}
	s := &pgxSession{
		db: d, plan: d.plan(a), conn: conn, cb: sqltx.Lend(tx, ErrTxOwned),
		commit: "release savepoint " + savepoint,
		undo:   undoSavepoint,
	}
	rec, err := claimed(ctx, s, s.claim, a)
	if err != nil || rec.Final {
		return nil, rec, err
	}
	return s, rec, nil
}

// usable tells by the server's last word whether the connection is inside a healthy transaction.
func usable(conn *pgx.Conn) error {
	if conn.IsClosed() {
		return errors.New("the connection was lost before the commit")
	}
	if conn.PgConn().IsBusy() {
		return sqltx.ErrRowsOpen
	}
	switch conn.PgConn().TxStatus() {
	case 'I':
		return ErrTxEnded
	case 'E':
		return ErrTxAborted
	}
	return nil
}

func (s *pgxSession) claim(ctx context.Context, a *attempt) (guard.Record, error) {
	if a.look && s.plan != nil {
		if rec, err := s.db.lookFirst(ctx, s.conn, s.plan, a); err != nil || rec.Final {
			return rec, err
		}
	}
	batch := &pgx.Batch{QueuedQueries: make([]*pgx.QueuedQuery, 0, 3)}
	if s.pooled != nil {
		// READ COMMITTED is what looks at a row again after waiting for its lock.
		batch.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	} else {
		batch.Queue("savepoint " + savepoint)
	}
	if s.plan == nil {
		return s.claimOwn(ctx, batch, a)
	}
	for _, statements := range s.plan.claim {
		for _, st := range statements {
			batch.Queue(st.SQL, st.Args(&a.Call)...)
		}
	}
	var xid string
	var held bool
	err := s.db.interruptibly(ctx, s.db.cfg.ClaimTimeout, s.conn, func(ctx context.Context) error {
		return s.send(ctx, batch, func(results pgx.BatchResults) (err error) {
			xid, held, err = scanClaims(results, s.plan.claim)
			return err
		})
	})
	if err != nil {
		return guard.Record{}, fmt.Errorf("claim: %w", err)
	}
	if !held {
		return s.readAndRollBack(ctx, a)
	}
	return guard.Record{XID: xid}, nil
}

// claimOwn is claim for a guard of the user's own.
func (s *pgxSession) claimOwn(ctx context.Context, begin *pgx.Batch, a *attempt) (guard.Record, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.db.cfg.ClaimTimeout, ErrBusy)
	defer cancel()
	if err := s.send(ctx, begin, func(pgx.BatchResults) error { return nil }); err != nil {
		return guard.Record{}, withCause(ctx, fmt.Errorf("begin: %w", err))
	}
	rec, err := s.db.cfg.Guard.Claim(ctx, s.cb, a.ref)
	if err != nil {
		return guard.Record{}, withCause(ctx, fmt.Errorf("claim: %w", err))
	}
	return rec, nil
}

// send sends a batch that begins the session's transaction, and hands the results after that to read.
func (s *pgxSession) send(ctx context.Context, batch *pgx.Batch, read func(pgx.BatchResults) error) error {
	results := s.conn.SendBatch(ctx, batch)
	if s.pooled != nil {
		s.cb = sqltx.Lend(results.Tx(), ErrTxOwned)
	}
	_, err := results.Exec()
	if err == nil {
		err = read(results)
	}
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	return err
}

// readAndRollBack reads the record of an aggregate that the claim didn't hold: a new statement sees the winner's, also if it
// was committed while the claim waited. Whatever it sees, this transaction is over.
func (s *pgxSession) readAndRollBack(ctx context.Context, a *attempt) (guard.Record, error) {
	batch := &pgx.Batch{QueuedQueries: make([]*pgx.QueuedQuery, 0, 3)}
	batch.Queue(s.plan.read.SQL, s.plan.read.Args(&a.Call)...)
	for _, undo := range s.undo {
		batch.Queue(undo)
	}
	seen := s.plan.answer()
	err := s.db.interruptibly(ctx, s.db.cfg.ClaimTimeout, s.conn, func(ctx context.Context) error {
		results := s.conn.SendBatch(ctx, batch)
		rows, err := results.Query()
		if err == nil {
			err = seen.scan(rows)
		}
		return errors.Join(err, results.Close())
	})
	if err != nil {
		return guard.Record{}, fmt.Errorf("read the winner's record: %w", err)
	}
	s.ended = true
	rec, err := s.db.cfg.guards.Record(a.ref, s.plan.plans, seen.rows)
	if err != nil || rec.Final {
		return rec, err
	}
	if a.number > 1 || s.callers() {
		// It is not the first time, or there is no second: rather than changed by others again, it may be a row that can be seen and not be locked.
		var secured bool
		t := s.plan.plans[0].Table()
		err := s.conn.QueryRow(ctx, "SELECT coalesce(pg_catalog.row_security_active(pg_catalog.to_regclass($1::text)::oid), false)", sqltx.Quote(t.Schema, t.Name)).Scan(&secured)
		if err != nil || secured {
			return rec, cmp.Or[error](err, &guard.TransitionError{Ref: a.ref, Want: a.State, Found: true, State: rec.State})
		}
	}
	return rec, fmt.Errorf("%w: the aggregate changed while it was being claimed", errGone)
}

func (s *pgxSession) tx() pgx.Tx { return s.cb }

func (s *pgxSession) finish(ctx context.Context, a *attempt) (guard.Record, error) {
	if err := usable(s.conn); err != nil {
		return guard.Record{}, err
	}
	s.cb.Close()
	w, err := s.db.watch(ctx, patient, s.conn, s.plan)
	if err != nil {
		return guard.Record{}, err
	}
	if s.again = w.Again; w.Apart || s.plan == nil {
		return s.finishOwn(ctx, a)
	}
	if a.size > pieceBytes {
		return s.finishInPieces(ctx, a)
	}
	if err := s.last(ctx, a, s.plan.finish[a.Form()](), s.again); err != nil {
		return guard.Record{}, err
	}
	return s.plan.settled(a), nil
}

// last sends the commit, behind the statement that settles, if there is one, and a look again, if there is to be one.
func (s *pgxSession) last(ctx context.Context, a *attempt, settle sqlplan.Statement, again bool) error {
	batch := &pgx.Batch{QueuedQueries: make([]*pgx.QueuedQuery, 0, 3)}
	if settle.SQL != "" {
		batch.Queue(settle.SQL, settle.Args(&a.Call)...)
	}
	if again {
		batch.Queue(s.plan.again.SQL, s.plan.again.Args(&a.Call)...)
	}
	batch.Queue(s.commit)
	err := s.db.interruptibly(ctx, patient, s.conn, func(ctx context.Context) (err error) {
		results := s.conn.SendBatch(ctx, batch)
		if settle.SQL != "" {
			var rows pgx.Rows
			if rows, err = results.Query(); err == nil {
				_, err = s.plan.scanWritten(rows, a)
			}
		}
		if err == nil && again {
			_, err = results.Exec()
		}
		if err != nil {
			_ = results.Close() // which reports the same
			return s.db.settleError(a, err)
		}
		return s.committed(results)
	})
	return s.stale(ctx, a, s.unanswered(err))
}

// pieceBytes is how much one message to the server may carry; more events travel a few at a time, and the commit after them.
const pieceBytes = 16 << 20

// finishOwn is finish for a guard of the user's own, and for tables whose rules and triggers don't allow of one statement.
func (s *pgxSession) finishOwn(ctx context.Context, a *attempt) (guard.Record, error) {
	lent := sqltx.Lend(s.cb.Owner(), ErrTxOwned)
	rec, err := s.db.cfg.Guard.Settle(ctx, lent, a.ref, a.transition())
	if err != nil {
		return rec, s.stale(ctx, a, settleOwnError(err))
	}
	if err := a.kept(rec); err != nil {
		return rec, err
	}
	if err := usable(s.conn); err != nil {
		return rec, err
	}
	if err := s.insertFirst(ctx, a); err != nil {
		return rec, err
	}
	if s.again {
		if err := keptStill(ctx, s.db.cfg.Guard, lent, a); err != nil {
			return rec, err
		}
	}
	return rec, s.last(ctx, a, sqlplan.Statement{}, false)
}

// committed reads the COMMIT's answer, the last of a batch.
func (s *pgxSession) committed(results pgx.BatchResults) error {
	tag, err := results.Exec()
	closeErr := results.Close()
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if s.pooled != nil && tag.String() != "COMMIT" {
		return ErrTxAborted // the server rolled back
	}
	s.ended = true
	if closeErr != nil {
		// The COMMIT was answered; what came after concerns only the connection, which the pool throws away.
		s.db.cfg.Logger.Debug("connection failed after a commit", "error", closeErr)
	}
	return nil
}

// unanswered marks an error after which the transaction may have committed: COMMIT travelled with the other statements, so
// any error but the server's own word leaves that open. Releasing a savepoint commits nothing.
func (s *pgxSession) unanswered(err error) error {
	if err == nil || s.pooled == nil || errors.Is(err, ErrTxAborted) || errors.Is(err, errUnmoved) || errors.Is(err, guard.ErrRewritten) || sqltx.Definite(err) {
		return err
	}
	// A connection that is in order and inside the transaction hasn't seen the COMMIT: pgx refused to send the batch.
	if s.conn.IsClosed() || s.conn.PgConn().IsBusy() || s.conn.PgConn().TxStatus() != 'T' {
		return fmt.Errorf("%w: %w", errUnanswered, err)
	}
	return err
}

func (s *pgxSession) callers() bool { return s.pooled == nil }

func (s *pgxSession) outside() endstate.Querier {
	if s.pooled == nil {
		return s.conn
	}
	return s.db.pool
}

func (s *pgxSession) rollback(ctx context.Context) {
	if s.cb != nil {
		s.cb.Close()
	}
	if !s.ended && !s.conn.IsClosed() && s.conn.PgConn().TxStatus() != 'I' {
		ctx, cancel := undoing(ctx)
		defer cancel()
		if _, err := s.conn.Exec(ctx, strings.Join(s.undo, "; ")); err != nil {
			// It must not serve another caller, nor the caller's own transaction commit what couldn't be undone.
			_ = s.conn.Close(ctx)
		}
	}
	s.ended = true
	if s.pooled != nil {
		s.pooled.Release()
	}
}
