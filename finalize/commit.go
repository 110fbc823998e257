package finalize

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// A COMMIT that got no answer has taken effect, or not, or will yet. Three things decide what to tell the caller:
//
//   - The transaction's id, where it is known, tells that it has finished. Before that nothing else can be believed.
//   - The attempt's token, in the ledger's entry or in the ids of its events, tells that it won. It holds after a failover
//     too, where the id may belong to another transaction.
//   - An open aggregate tells that it didn't commit, and that the work may be done again.

// verdict is what became of an attempt.
type verdict int

const (
	inProgress verdict = iota // ask again
	wonIt
	lostIt
	notDone // it did not commit, and nobody else finalized the aggregate
	untold  // final, but nothing tells by whom
)

// sighting is one look at what became of an attempt.
type sighting struct {
	rec     guard.Record
	verdict verdict
}

// resolve asks until it is known what became of an attempt whose COMMIT got no answer. It goes on after the caller's
// context has ended, within ResolveTimeout.
func (f *core) resolve(ctx context.Context, a *attempt, look func(context.Context, *attempt) (sighting, error), cause error) (Receipt, error) {
	f.resolving(ctx, a, cause)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.cfg.ResolveTimeout)
	defer cancel()
	pause := f.backoff()
	var last error
	for {
		// A look on a connection that has gone silent leaves time for another one's.
		looking, looked := context.WithTimeout(ctx, f.cfg.ResolveTimeout/4)
		seen, err := look(looking, a)
		looked()
		switch {
		case errors.Is(err, ErrEventConflict), errors.Is(err, errUnmoved), errors.Is(err, guard.ErrRewritten):
			// It was run again and refused: the aggregate is open, and the first run can't have taken effect.
			return Receipt{}, fmt.Errorf("%w (%w)", err, cause)
		case errors.Is(err, guard.ErrNotFound), errors.Is(err, guard.ErrAnomaly):
			return Receipt{}, fmt.Errorf("%w: %w: %w", ErrOutcomeUnknown, err, cause)
		case err != nil:
			if last == nil || !errors.Is(err, context.DeadlineExceeded) {
				last = err // which says more than that the time is over
			}
		default:
			switch seen.verdict {
			case wonIt:
				return receiptOf(seen.rec, true), nil
			case lostIt:
				return receiptOf(seen.rec, false), nil
			case notDone:
				return Receipt{}, fmt.Errorf("%w: %w", errGone, cause)
			case untold:
				return Receipt{}, fmt.Errorf("%w: the aggregate is %q, and nothing shows whether by this call (no ledger, and no event of this call in the outbox): %w",
					ErrOutcomeUnknown, seen.rec.State, cause)
			}
		}
		if sleep.For(ctx, pause.NextBackOff()) != nil {
			return Receipt{}, errors.Join(fmt.Errorf("%w: the database didn't tell within %v: %w", ErrOutcomeUnknown, f.cfg.ResolveTimeout, cause), last)
		}
	}
}

// transactionEnded asks whether the transaction has finished, and how ("committed", "aborted", or "" when the server no
// longer, or not yet, knows the id).
func transactionEnded(ctx context.Context, q endstate.Querier, xid string) (ended bool, status string, err error) {
	var state *string
	var replica bool
	// A replica must not be asked: for it, an id that it hasn't come to yet is from the future too.
	err = q.QueryRow(ctx, "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_xact_status($1::text::xid8) END, pg_is_in_recovery()", xid).Scan(&state, &replica)
	switch {
	case sqltx.State(err) == sqltx.InvalidParameter:
		// An id from the future: after a failover the new primary hasn't reached it yet.
		return true, "", nil
	case err != nil:
		return false, "", err
	case replica:
		return false, "", errors.New("the database is a replica, which can't tell")
	case state == nil:
		return true, "", nil
	}
	return *state != "in progress", *state, nil
}

// judge tells from a record, read after the attempt's transaction has ended with this status, what became of the attempt.
func judge(ctx context.Context, w outbox.Writer, q endstate.Querier, a *attempt, rec guard.Record, status string) (sighting, error) {
	if !rec.Final {
		return sighting{rec, notDone}, nil
	}
	if rec.Provenance != nil {
		if a.ours(rec) {
			return sighting{rec, wonIt}, nil
		}
		return sighting{rec, lostIt}, nil
	}
	if len(a.events) > 0 {
		holders, err := w.Holders(ctx, q, a.events)
		if err != nil {
			return sighting{}, err
		}
		ours := func(e outbox.Event) bool { return slices.Contains(holders, e.ID) }
		if slices.ContainsFunc(a.events, ours) {
			return sighting{rec, wonIt}, nil
		}
		if !slices.Contains(holders, uuid.Nil) {
			return sighting{rec, lostIt}, nil // another call's events are there in place of every one of ours
		}
	}
	if status == "aborted" {
		return sighting{rec, lostIt}, nil
	}
	return sighting{rec, untold}, nil
}

// ours reports whether the ledger's entry is this attempt's.
func (a *attempt) ours(rec guard.Record) bool {
	return rec.Provenance != nil && rec.Provenance.Token == a.Token
}

// look asks, outside of any attempt's transaction, what became of one. Claiming waits for the end of a transaction whose id isn't
// known. On a replica, where nothing can be locked, it fails.
func (f *Finalizer[Tx]) look(ctx context.Context, a *attempt) (sighting, error) {
	if d, ok := f.db.(settler); ok {
		if seen, handled, err := d.look(ctx, a); handled {
			return seen, err
		}
	}
	q, status := f.db.querier(), ""
	if a.xid != "" {
		ended, how, err := transactionEnded(ctx, q, a.xid)
		if err != nil || !ended {
			return sighting{}, err
		}
		status = how
	}
	s, rec, err := f.db.claim(ctx, a)
	if s != nil {
		s.rollback(ctx)
	}
	if err != nil {
		return sighting{}, err
	}
	return judge(ctx, f.cfg.Outbox, q, a, rec, status)
}

// look implements settler. All is asked on one connection: a pool's connections may lead to several servers, and a replica
// must not say of an aggregate what the primary's word on the transaction is taken for.
func (d *pgxDB) look(ctx context.Context, a *attempt) (seen sighting, handled bool, err error) {
	j := d.plan(a)
	if j == nil || a.xid == "" {
		return seen, false, nil
	}
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return seen, true, err
	}
	defer conn.Release()
	ended, status, err := transactionEnded(ctx, conn, a.xid)
	if err != nil || !ended {
		return seen, true, err
	}
	rec, err := d.read(ctx, patient, conn.Conn(), j, a)
	if err == nil {
		seen, err = judge(ctx, d.cfg.Outbox, conn, a, rec, status)
	}
	return seen, true, err
}

// resume finds out what became of a settle whose statement got no answer: it runs once more with the same token. The row lock waits
// the first run out; if that hasn't come to the row yet, it will find it final.
func (d *pgxDB) resume(ctx context.Context, f *core, a *attempt, cause error) (Receipt, error) {
	j := d.plan(a)
	return f.resolve(ctx, a, func(ctx context.Context, a *attempt) (sighting, error) {
		rec, won, err := d.settleOnce(ctx, j, a)
		if errors.Is(err, errApart) {
			return d.settleApart(ctx, a)
		}
		if err != nil || won {
			return sighting{rec, wonIt}, err
		}
		return judge(ctx, d.cfg.Outbox, d.pool, a, rec, "")
	}, cause)
}
