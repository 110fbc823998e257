package finalize

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// settle is Settle in one statement, one round trip; handled is false where the guard has no plan.
func (d *pgxDB) settle(ctx context.Context, f *core, a *attempt) (r Receipt, handled bool, err error) {
	j := d.plan(a)
	if j == nil || a.size > pieceBytes {
		return Receipt{}, false, nil
	}
	rec, won, err := d.settleGrouped(ctx, j, a)
	switch {
	case errors.Is(err, errApart):
		return Receipt{}, false, nil
	case errors.Is(err, errUnanswered):
		r, err = d.resume(ctx, f, a, err)
		return r, true, err
	}
	if err != nil {
		return Receipt{}, true, err
	}
	return receiptOf(rec, won), true, nil
}

// receiptOf makes a receipt of a record.
func receiptOf(rec guard.Record, won bool) Receipt {
	r := Receipt{Won: won, State: rec.State}
	if p := rec.Provenance; p != nil {
		r.Provenance, r.Trigger, r.At, r.Token = true, Trigger(p.Trigger), p.At, p.Token
		copy(r.Digest[:], p.Digest)
	}
	return r
}

// errApart is of a settle that can't be told in one statement: it claims first. Either triggers may change what it wrote after
// it returned; or it moved nothing though the aggregate is open, and who holds it is told why.
var errApart = errors.New("settle apart")

// resume finds out what became of a settle whose statement got no answer: it runs once more with the same token, and the row
// lock waits the first run out.
func (d *pgxDB) resume(ctx context.Context, f *core, a *attempt, cause error) (Receipt, error) {
	j := d.plan(a)
	return f.resolve(ctx, a, func(ctx context.Context, a *attempt) (sighting, error) {
		rec, won, err := d.settleOnce(ctx, j, a)
		if errors.Is(err, errApart) {
			return d.lookByClaim(ctx, a)
		}
		if err != nil || won {
			return sighting{rec, wonIt}, err
		}
		return judge(ctx, d.cfg.Outbox, d.pool, a, rec, "")
	}, cause)
}

// settleOnce is one statement, and another one if that wrote nothing.
func (d *pgxDB) settleOnce(ctx context.Context, j *joined, a *attempt) (rec guard.Record, won bool, err error) {
	pooled, err := d.acquire(ctx)
	if err != nil {
		return rec, false, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.ClaimTimeout, ErrBusy)
	defer cancel()
	defer func() {
		if err != nil {
			err = d.release(ctx, pooled, a, withCause(ctx, err))
			return
		}
		pooled.Release()
	}()
	conn := pooled.Conn()
	if w, err := d.watch(ctx, conn, j); err != nil {
		return rec, false, err
	} else if w.Again {
		return rec, false, errApart
	}
	st := j.settle[a.batch()]()
	err = d.interruptibly(ctx, conn, func(ctx context.Context) error {
		rows, err := conn.Query(ctx, st.SQL, st.Args(&a.Call)...)
		if err != nil {
			return unsent(conn, err)
		}
		won, err = j.scanWritten(rows, a)
		return err
	})
	switch {
	case err == nil && won:
		return j.settled(a), true, nil
	case err == nil:
		// Nothing was in the statement's way but the state. Its snapshot may be older than the winner's commit, for which it
		// waited: another one reads the record.
		rec, err = d.read(ctx, conn, j, a)
		won = a.ours(rec) // a new trigger may keep the events out unseen, which are the rows that are counted
		if err == nil && !rec.Final {
			err = errApart
		}
		return rec, won, err
	}
	err = d.settleError(a, err)
	switch {
	case errors.Is(err, errEvents):
		return rec, false, conflict(ctx, d.cfg.Outbox, conn, a, err)
	case errors.Is(err, errUnmoved): // only some of the guards
		err = errApart
	case errors.Is(err, guard.ErrRewritten), errors.Is(err, errUnsent), sqltx.Definite(err):
	default:
		err = fmt.Errorf("%w: %w", errUnanswered, err)
	}
	return rec, false, err
}

// batch puts the events' arguments into the attempt, and returns the form of their insert.
func (a *attempt) batch() (form sqlplan.Form) {
	var few [sqlplan.FewEvents]*sqlplan.Event
	events := few[:0]
	if len(a.events) > len(few) {
		events = make([]*sqlplan.Event, 0, len(a.events))
	}
	for i := range a.events {
		events = append(events, (*sqlplan.Event)(&a.events[i]))
	}
	form, a.Events = sqlplan.Batch(events)
	return form
}

// scanWritten reads the answer of a statement that settles, and reports whether it wrote. The time is the attempt's then, if there
// is a ledger.
func (j *joined) scanWritten(rows pgx.Rows, a *attempt) (won bool, err error) {
	defer rows.Close()
	if j.ledger >= 0 && rows.Next() {
		if err := rows.Scan(&a.at); err != nil {
			return false, err
		}
	}
	rows.Close()
	return rows.CommandTag().RowsAffected() > 0, rows.Err()
}

// read reads the record in one statement, and so in one snapshot.
func (d *pgxDB) read(ctx context.Context, conn *pgx.Conn, j *joined, a *attempt) (rec guard.Record, err error) {
	seen := j.answer()
	err = d.interruptibly(ctx, conn, func(ctx context.Context) error {
		rows, err := conn.Query(ctx, j.read.SQL, j.read.Args(&a.Call)...)
		if err != nil {
			return err
		}
		return seen.scan(rows)
	})
	if err != nil {
		return rec, fmt.Errorf("read the record: %w", err)
	}
	return d.cfg.guards.Record(a.ref, j.plans, seen.rows)
}

// settled is the record of an aggregate that this attempt finalized.
func (j *joined) settled(a *attempt) guard.Record {
	rec := guard.Record{Final: true, State: a.State}
	if j.ledger >= 0 {
		rec.Provenance = &guard.Provenance{Trigger: a.Trigger, At: a.at.Time, Token: a.Token, Digest: a.Digest}
	}
	return rec
}

// answer is what a statement returns that reads.
type answer struct {
	*joined
	rows []sqlplan.Row // by plan
	dest []any
}

func (j *joined) answer() *answer {
	return &answer{joined: j, rows: make([]sqlplan.Row, len(j.plans)), dest: make([]any, 0, 8)}
}

// scan reads the row of a read, if there is one, and closes rows.
func (r *answer) scan(rows pgx.Rows) error {
	for i, plan := range r.plans {
		r.dest = plan.Dest(r.dest, &r.rows[i])
	}
	_, err := scanRow(rows, r.dest)
	return err
}

// scanRow reads the first row, if there is one, and closes rows.
func scanRow(rows pgx.Rows, dest []any) (found bool, err error) {
	defer rows.Close()
	if found = rows.Next(); found && len(dest) > 0 {
		if err := rows.Scan(dest...); err != nil {
			return found, err
		}
	}
	rows.Close()
	return found, rows.Err()
}

// scanClaims reads the results of each plan's claim. The aggregate is held if every plan holds it; xid is the
// transaction's.
func scanClaims(results pgx.BatchResults, claims [][]sqlplan.Statement) (xid string, held bool, err error) {
	held = true
	for _, statements := range claims {
		for range statements[:len(statements)-1] {
			if _, err := results.Exec(); err != nil {
				return "", false, err
			}
		}
		rows, err := results.Query()
		if err != nil {
			return "", false, err
		}
		holds, err := scanRow(rows, []any{&xid})
		if err != nil {
			return "", false, err
		}
		held = held && holds
	}
	return xid, held, nil
}

// plan returns the joined SQL for a's key, which fits the guards, or nil.
func (d *pgxDB) plan(a *attempt) *joined {
	if j, ok := d.plans.Load(a.Shape); ok {
		return j.(*joined)
	}
	var j *joined
	if plans := d.cfg.guards.Plans(a.Shape); plans != nil {
		j = newJoined(plans, d.cfg.Outbox)
	}
	d.plans.Store(a.Shape, j)
	return j
}

// acquire takes a connection of the pool. Waiting for one is not waiting for an aggregate, and has a time of its own.
func (d *pgxDB) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	waiting, cancel := context.WithTimeoutCause(ctx, d.cfg.ClaimTimeout, errNoConnection)
	defer cancel()
	conn, err := d.pool.Acquire(waiting)
	if err != nil {
		taken, of := d.taken()
		return nil, notAcquired(waiting, taken, of, err)
	}
	return conn, nil
}

// notAcquired says why there is no connection.
func notAcquired(waiting context.Context, taken, of int, err error) error {
	err = withCause(waiting, fmt.Errorf("acquire a connection: %w", err))
	if waiting.Err() != nil && of > 0 && taken >= of {
		err = fmt.Errorf("%w (%d of %d): %w", ErrPoolExhausted, taken, of, err)
	}
	return err
}

// withCause adds to err the reason for which ctx ended, if it did.
func withCause(ctx context.Context, err error) error {
	if deadline, ok := ctx.Deadline(); ok && err != nil && !time.Now().Before(deadline) {
		<-ctx.Done() // a dial that was given the same deadline may be the first to notice
	}
	if err != nil && ctx.Err() != nil {
		if cause := context.Cause(ctx); !errors.Is(err, cause) {
			return fmt.Errorf("%w: %w", cause, err)
		}
	}
	return err
}

// interruptibly runs statements that may wait for locks. When ctx ends it asks the server to cancel and waits for the
// server's word, so that the outcome is known; pgx alone would close the connection and leave a backend behind that goes on
// waiting, and a single statement might still take effect.
func (d *pgxDB) interruptibly(ctx context.Context, conn *pgx.Conn, run func(context.Context) error) (err error) {
	// The statements get a context that never ends, which spares pgx a goroutine for each: giving up is setting a deadline.
	detached := context.WithoutCancel(ctx)
	finished, interrupted := make(chan struct{}), make(chan struct{})
	delivered := true
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		// A request is seen to its end though the statement has ended meanwhile: on its way it could hit the next one.
		grace, cancel := context.WithTimeout(detached, interruptGrace)
		defer cancel()
		for {
			// Again and again, since the server ignores a request that comes before the statement, or between two.
			if conn.PgConn().CancelRequest(grace) != nil || grace.Err() != nil {
				delivered = false
			}
			select {
			case <-finished:
				return
			case <-grace.Done():
				_ = conn.PgConn().Conn().SetDeadline(time.Now())
				return
			case <-time.After(interruptInterval):
			}
		}
	})
	defer func() { // also on a panic in a tracer of the pool's
		if stop() {
			return
		}
		close(finished)
		<-interrupted
		if !delivered || sqltx.State(err) != sqltx.QueryCanceled {
			// A cancel request that came too late must not hit the connection's next user.
			_ = conn.Close(ctx)
		}
	}()
	return run(detached)
}

// watchEvery is how old what the catalog said of the tables' triggers and rules may be.
const watchEvery = time.Minute

// watcher knows what becomes of the rows that a finalization writes beyond what its statements return: see sqlplan.Watch.
// PostgreSQL only.
type watcher struct {
	every  time.Duration
	mu     sync.Mutex
	looked time.Time // zero: never
	seen   sqlplan.Watch
}

// known returns what the catalog said lately.
func (w *watcher) known() (seen sqlplan.Watch, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.looked.IsZero():
		return seen, false
	case time.Since(w.looked) >= w.every:
		w.looked = time.Now() // the others go on with what is known
		return seen, false
	}
	return w.seen, true
}

// look asks the catalog. The error is a database's.
func (w *watcher) look(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, tables []sqlplan.Table) (sqlplan.Watch, error) {
	seen, err := sqlplan.Look(ctx, q, tables)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.looked = time.Time{}
		return seen, fmt.Errorf("look for triggers and rules: %w", err)
	}
	w.looked, w.seen = time.Now(), seen
	return seen, nil
}

// watch says what j's statements don't return of what becomes of their rows. A guard without a plan is always asked again.
func (d *pgxDB) watch(ctx context.Context, conn *pgx.Conn, j *joined) (w sqlplan.Watch, err error) {
	if j == nil {
		return sqlplan.Watch{Again: true}, nil
	}
	if w, known := d.watcher.known(); known {
		return w, nil
	}
	err = d.interruptibly(ctx, conn, func(ctx context.Context) error {
		w, err = d.watcher.look(ctx, conn, tables(j.plans, d.cfg.Outbox))
		return err
	})
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx) // and the connection may have been given up: nothing was sent on it yet
	}
	return w, err
}
