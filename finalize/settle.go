package finalize

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// settle is Settle in one statement, one round trip; handled is false where the guard has no plan.
func (d *pgxDB) settle(ctx context.Context, f *core, a *attempt) (r Receipt, handled bool, err error) {
	j := d.plan(a)
	if j == nil || a.size > pieceBytes {
		return Receipt{}, false, nil
	}
	rec, won, err := d.settleAmong(ctx, j, a)
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

// settleAmong settles one attempt: alone, or with others, if many are under way.
func (d *pgxDB) settleAmong(ctx context.Context, j *joined, a *attempt) (guard.Record, bool, error) {
	if cfg := &d.cfg.Group; !cfg.Off {
		g, calls := j.groups.enter(a.ref.Tenant)
		defer j.groups.leave(a.ref.Tenant)
		if calls > cfg.From || cfg.Wait > 0 {
			m := &member{a: a}
			if err := d.join(ctx, g, m); err != nil || m.got.done {
				return m.got.rec, m.got.won, err
			}
		}
	}
	return d.settleOnce(ctx, j, a)
}

// groups are the tenants' groups, while they have calls under way. What a connection of the pool shows may depend on who it was
// taken for, so a statement is for one tenant's calls only.
type groups struct {
	mu       sync.Mutex
	byTenant map[string]*group
}

// enter returns the tenant's group, and how many of its calls are under way with this one.
func (gs *groups) enter(tenant string) (g *group, calls int) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g = gs.byTenant[tenant]
	if g == nil {
		if gs.byTenant == nil {
			gs.byTenant = map[string]*group{}
		}
		g = &group{}
		gs.byTenant[tenant] = g
	}
	g.calls++
	return g, g.calls
}

// leave forgets the tenant's group after its last call.
func (gs *groups) leave(tenant string) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.byTenant[tenant]
	if g.calls--; g.calls == 0 {
		delete(gs.byTenant, tenant)
	}
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

// settleApart is settleOnce in a transaction that claims first. A look at what is open wouldn't do: the first run may still
// come. The transaction's id is not noted, since it tells nothing of the first run.
func (d *pgxDB) settleApart(ctx context.Context, a *attempt) (sighting, error) {
	s, rec, err := d.claim(ctx, a)
	if err != nil {
		return sighting{}, err
	}
	if rec.Final {
		return judge(ctx, d.cfg.Outbox, d.pool, a, rec, "")
	}
	defer s.rollback(ctx)
	rec, err = s.finish(ctx, a)
	if err == nil {
		return sighting{rec, wonIt}, nil
	}
	s.rollback(ctx)
	if outbox.Taken(err) && errors.Is(err, errEvents) {
		err = conflict(ctx, d.cfg.Outbox, s.outside(), a, err)
	}
	return sighting{}, err
}

// settleOnce is one statement, and another one if that wrote nothing.
func (d *pgxDB) settleOnce(ctx context.Context, j *joined, a *attempt) (rec guard.Record, won bool, err error) {
	pooled, err := d.acquire(ctx)
	if err != nil {
		return rec, false, err
	}
	defer func() { err = d.release(ctx, pooled, a, withCause(ctx, err)) }()
	conn := pooled.Conn()
	if a.look {
		if rec, err = d.lookFirst(ctx, conn, j, a); err != nil || rec.Final {
			return rec, false, err
		}
	}
	if w, err := d.watch(ctx, d.cfg.ClaimTimeout, conn, j); err != nil {
		return rec, false, err
	} else if w.Again {
		return rec, false, errApart
	}
	st := j.settle[a.Form()]()
	err = d.interruptibly(ctx, d.cfg.ClaimTimeout, conn, func(ctx context.Context) error {
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
		rec, err = d.read(ctx, d.cfg.ClaimTimeout, conn, j, a)
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

// scanWritten reads the answer of a statement that settles, and reports whether it wrote. The time is the attempt's then, if there
// is a ledger.
func (j *joined) scanWritten(rows pgx.Rows, a *attempt) (won bool, err error) {
	var dest []any
	if j.ledger >= 0 {
		dest = []any{&a.at}
	}
	_, err = scanRow(rows, dest)
	return rows.CommandTag().RowsAffected() > 0, err
}

// settled is the record of an aggregate that this attempt finalized.
func (j *joined) settled(a *attempt) guard.Record {
	rec := guard.Record{Final: true, State: a.State}
	if j.ledger >= 0 {
		rec.Provenance = &guard.Provenance{Trigger: a.Trigger, At: a.at.Time, Token: a.Token, Digest: a.Digest}
	}
	return rec
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
func acquire[C any](ctx context.Context, timeout time.Duration, pool interface{ taken() (taken, of int) }, take func(context.Context) (C, error)) (C, error) {
	waiting, cancel := context.WithTimeoutCause(ctx, timeout, errNoConnection)
	defer cancel()
	conn, err := take(waiting)
	if err != nil {
		err = withCause(waiting, fmt.Errorf("acquire a connection: %w", err))
		if taken, of := pool.taken(); waiting.Err() != nil && of > 0 && taken >= of {
			err = fmt.Errorf("%w (%d of %d); enlarge the pool, or shorten callbacks: %w", ErrPoolExhausted, taken, of, err)
		}
	}
	return conn, err
}

func (d *pgxDB) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	return acquire(ctx, d.cfg.ClaimTimeout, d, d.pool.Acquire)
}

// withCause adds to err the reason for which ctx ended, if it did.
func withCause(ctx context.Context, err error) error {
	if deadline, ok := ctx.Deadline(); ok && err != nil && !time.Now().Before(deadline) {
		<-ctx.Done() // a dial that was given the same deadline may be the first to notice
	}
	if err != nil && ctx.Err() != nil {
		switch cause := context.Cause(ctx); {
		case errors.Is(err, cause):
		case cause == ErrBusy:
			return busy(err)
		default:
			return fmt.Errorf("%w: %w", cause, err)
		}
	}
	return err
}

// busy adds ErrBusy to the error of a statement that waited for too long. Unless that is the server's word, nobody knows what for.
func busy(err error) error {
	if !sqltx.Definite(err) {
		return fmt.Errorf("%w, or the database gives no answer: %w", ErrBusy, err)
	}
	return fmt.Errorf("%w: %w", ErrBusy, err)
}

// interruptGrace is how long the server has to answer a cancel request, before the connection is given up.
const interruptGrace = 2 * time.Second

// interruptInterval is how long it has before it is asked again.
const interruptInterval = 50 * time.Millisecond

// interrupt ends statements that wait too long. It is kept for the next ones, with its timer, unless it was needed.
type interrupt struct {
	conn      *pgx.Conn
	detached  context.Context
	timer     *time.Timer
	once      sync.Once
	ended     func()        // asks the server to cancel, since the caller's context has ended
	finished  chan struct{} // the statements have ended
	over      chan struct{} // and so has the interruption
	busy      bool          // it was for the time
	delivered bool
}

func newInterrupt() any {
	i := &interrupt{finished: make(chan struct{}), over: make(chan struct{})}
	i.timer = time.AfterFunc(time.Hour, func() { i.run(true) })
	i.timer.Stop()
	i.ended = func() { i.run(false) }
	return i
}

// patient is the limit of statements that wait for no other call, such as a COMMIT.
const patient time.Duration = 0

// interruptibly runs statements that may wait for locks. When ctx ends, or the limit is over, it asks the server to cancel and waits
// for the server's word, so that the outcome is known; pgx alone would close the connection and leave a backend behind that goes on
// waiting, and a single statement might still take effect. Who was stopped by the limit gets ErrBusy.
func (d *pgxDB) interruptibly(ctx context.Context, limit time.Duration, conn *pgx.Conn, run func(context.Context) error) (err error) {
	i := d.interrupts.Get().(*interrupt)
	// The statements get a context that never ends, which spares pgx a goroutine for each: giving up is setting a deadline.
	i.conn, i.detached = conn, context.WithoutCancel(ctx)
	if limit != patient {
		i.timer.Reset(limit)
	}
	stop := context.AfterFunc(ctx, i.ended)
	defer func() { // also on a panic in a tracer of the pool's
		inTime, onItsOwn := limit == patient || i.timer.Stop(), stop()
		if inTime && onItsOwn {
			i.conn, i.detached = nil, nil
			d.interrupts.Put(i)
			return
		}
		close(i.finished)
		<-i.over
		if !i.delivered || sqltx.State(err) != sqltx.QueryCanceled {
			// A cancel request that came too late must not hit the connection's next user.
			_ = conn.Close(ctx)
		}
		if i.busy && err != nil {
			err = busy(err)
		}
	}()
	return run(i.detached)
}

// run asks the server to cancel, again and again, since it ignores a request that comes before the statement, or between two.
func (i *interrupt) run(busy bool) {
	i.once.Do(func() {
		defer close(i.over)
		i.busy, i.delivered = busy, true
		// A request is seen to its end though the statement has ended meanwhile: on its way it could hit the next one.
		grace, cancel := context.WithTimeout(i.detached, interruptGrace)
		defer cancel()
		for {
			if i.conn.PgConn().CancelRequest(grace) != nil || grace.Err() != nil {
				i.delivered = false
			}
			select {
			case <-i.finished:
				return
			case <-grace.Done():
				_ = i.conn.PgConn().Conn().SetDeadline(time.Now())
				return
			case <-time.After(interruptInterval):
			}
		}
	})
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
func (w *watcher) look(ctx context.Context, q endstate.Querier, tables []sqlplan.Table) (sqlplan.Watch, error) {
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
func (d *pgxDB) watch(ctx context.Context, limit time.Duration, conn *pgx.Conn, j *joined) (w sqlplan.Watch, err error) {
	if j == nil {
		return sqlplan.Watch{Again: true}, nil
	}
	if w, known := d.watcher.known(); known {
		return w, nil
	}
	err = d.interruptibly(ctx, limit, conn, func(ctx context.Context) error {
		w, err = d.watcher.look(ctx, conn, tables(j.plans, d.cfg.Outbox))
		return err
	})
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx) // and the connection may have been given up: nothing was sent on it yet
	}
	return w, err
}
