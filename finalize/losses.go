package finalize

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/endstate-go/endstate/guard"
)

// A loser that writes first finds nothing to write, and reads the winner's record by a second statement, or rolls back what it began
// as well. One that looks first is done with a SELECT, but a winner that looks first pays for it. So calls look first while most of
// the finalizer's latest ones that asked the database have lost.

// losses are the share of losing calls among the latest.
type losses struct{ share atomic.Int32 } // of allLost; each call counts for a sixteenth of what was before

const allLost = 1 << 12

// note counts a call. What calls at the same moment overwrite of each other matters to nobody.
func (l *losses) note(lost bool) {
	share, to := l.share.Load(), int32(0)
	if lost {
		to = allLost
	}
	l.share.Store(share + (to-share)/16)
}

// prevail reports whether most calls lose.
func (l *losses) prevail() bool { return l.share.Load() > allLost/2 }

// looker is a database that can read an aggregate's record in one statement.
type looker interface {
	// lookAt returns the record, handled=false if the guard has no plan.
	lookAt(ctx context.Context, a *attempt) (rec guard.Record, handled bool, err error)
}

// lookFirst answers a call if the aggregate is final. Whatever else it sees, or that it can't look, is left to the attempt itself.
func (f *Finalizer[Tx]) lookFirst(ctx context.Context, a *attempt) (r Receipt, handled bool, err error) {
	db, ok := f.db.(looker)
	if !ok {
		return r, false, nil
	}
	rec, handled, err := db.lookAt(ctx, a)
	switch {
	case errors.Is(err, errNoConnection), err != nil && ctx.Err() != nil:
		return r, true, withCause(ctx, err)
	case !handled, err != nil, !rec.Final:
		return r, false, nil
	}
	return receiptOf(rec, false), true, nil
}

func (d *pgxDB) lookAt(ctx context.Context, a *attempt) (rec guard.Record, handled bool, err error) {
	j := d.plan(a)
	if j == nil {
		return rec, false, nil
	}
	pooled, err := d.acquire(ctx)
	if err != nil {
		return rec, true, err
	}
	defer pooled.Release()
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.ClaimTimeout, ErrBusy)
	defer cancel()
	rec, err = d.read(ctx, pooled.Conn(), j, a)
	return rec, true, err
}
