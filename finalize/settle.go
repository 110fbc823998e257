package finalize

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// settle is Settle in one statement, one round trip; handled is false where the guard has no plan.
func (d *pgxDB) settle(ctx context.Context, f *core, a *attempt) (r Receipt, handled bool, err error) {
	if err := d.fits(a); err != nil {
		return Receipt{}, true, err
	}
	j := d.plan(a)
	if j == nil {
		return Receipt{}, false, nil
	}
	a.Events = d.cfg.Outbox.Columns(a.events)
	rec, won, err := d.settleOnce(ctx, j, a)
	if errors.Is(err, errUnanswered) {
		// Once more with the same token: the row lock waits out the first attempt.
		r, err := f.resolve(ctx, a, func(ctx context.Context, a *attempt) (sighting, error) {
			rec, won, err := d.settleOnce(ctx, j, a)
			if err != nil || won {
				return sighting{rec, wonIt}, err
			}
			return judge(ctx, d.cfg.Outbox, d.pool, a, rec, "")
		}, err)
		return r, true, err
	}
	if err != nil {
		return Receipt{}, true, err
	}
	return receiptOf(rec, won), true, nil
}

func (d *pgxDB) settleOnce(ctx context.Context, j *joined, a *attempt) (rec guard.Record, won bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.ClaimTimeout, ErrBusy)
	defer cancel()
	defer func() { err = withCause(ctx, err) }()
	pooled, err := d.pool.Acquire(ctx)
	if err != nil {
		return rec, false, fmt.Errorf("acquire a connection: %w", err)
	}
	defer pooled.Release()
	seen := j.answer()
	query := func(st sqlplan.Statement) error {
		return d.interruptibly(ctx, pooled.Conn(), func(ctx context.Context) error {
			rows, err := pooled.Query(ctx, st.SQL, st.Args(&a.Call)...)
			if err != nil {
				return err
			}
			return seen.scan(rows)
		})
	}
	if err := query(j.settle[outbox.ClauseKind(len(a.events))]()); err != nil {
		err = d.settleError(err)
		if errors.Is(err, errEvents) {
			return rec, false, conflict(ctx, d.cfg.Outbox, pooled, a, err)
		}
		if !sqltx.Definite(err) {
			err = fmt.Errorf("%w: %w", errUnanswered, err)
		}
		return rec, false, err
	}
	if seen.won != nil {
		return seen.settled(a), true, nil
	}
	rec, err = seen.merge(d.cfg.Guard, a.ref)
	if err != nil || rec.Final {
		return rec, false, err
	}
	// The winner committed while this statement waited: a new one sees it.
	seen = j.answer()
	if err := query(j.read); err != nil {
		return rec, false, fmt.Errorf("read the winner's record: %w", err)
	}
	rec, err = seen.merge(d.cfg.Guard, a.ref)
	if err == nil && !rec.Final {
		err = fmt.Errorf("%w: the aggregate changed while it was being settled", errGone)
	}
	return rec, false, err
}

// answer is what a joined statement returned.
type answer struct {
	plans []sqlplan.Guard
	rows  []sqlplan.Row
	won   *bool
	at    *time.Time
}

func (j *joined) answer() *answer {
	return &answer{plans: j.plans, rows: make([]sqlplan.Row, len(j.plans))}
}

// scan reads the row of mayWin or read, if there is one, and closes rows.
func (r *answer) scan(rows pgx.Rows) error {
	dest := []any{&r.won, &r.at}
	for i, plan := range r.plans {
		dest = append(dest, plan.Dest(&r.rows[i])...)
	}
	return scanRow(rows, dest)
}

// scanWon reads the row of mustWin.
func (r *answer) scanWon(rows pgx.Rows) error { return scanRow(rows, []any{&r.won, &r.at}) }

func scanRow(rows pgx.Rows, dest []any) error {
	defer rows.Close()
	if rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
	}
	rows.Close()
	return rows.Err()
}

// scanClaims reads the results of each plan's claim.
func (r *answer) scanClaims(results pgx.BatchResults, claims [][]sqlplan.Statement) error {
	for i, statements := range claims {
		for range statements[:len(statements)-1] {
			if _, err := results.Exec(); err != nil {
				return err
			}
		}
		rows, err := results.Query()
		if err != nil {
			return err
		}
		if err := scanRow(rows, append(r.plans[i].Dest(&r.rows[i]), &r.rows[i].XID)); err != nil {
			return err
		}
	}
	return nil
}

// settled is the record of an aggregate that this attempt finalized.
func (r *answer) settled(a *attempt) guard.Record {
	rec := guard.Record{Final: true, State: a.State}
	if r.at != nil {
		rec.Provenance = &guard.Provenance{Trigger: a.Trigger, At: *r.at, Token: a.token, Digest: a.Digest}
	}
	return rec
}

// raced tells of a claim that a guard was seen open but isn't held: another transaction was ahead, and the statement's
// snapshot is too old to show what it did.
func (r *answer) raced() bool {
	for i, plan := range r.plans {
		if row := &r.rows[i]; row.XID == nil && !plan.Final(row) && (row.Present != nil || plan.Absent() == nil) {
			return true
		}
	}
	return false
}

// merge makes one record of the guards'.
func (r *answer) merge(g guard.Guard, ref guard.Ref) (guard.Record, error) {
	records := make([]guard.Record, len(r.plans))
	for i, plan := range r.plans {
		rec, err := guard.PlanRecord(plan, &r.rows[i])
		if err != nil {
			return rec, err
		}
		records[i] = rec
	}
	if m, ok := g.(merger); ok {
		return m.Merge(ref, records)
	}
	return records[0], nil
}
