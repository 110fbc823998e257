package finalize

import (
	"context"
	"errors"
	"fmt"

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
	r = receiptOf(rec, won)
	r.Differs = !won && a.differs(rec)
	return r, true, nil
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
	parts := j.parts(a.ref)
	query := func(st sqlplan.Statement) error {
		return d.interruptibly(ctx, pooled.Conn(), func(ctx context.Context) error {
			rows, err := pooled.Query(ctx, st.SQL, st.Args(&a.Call)...)
			if err != nil {
				return err
			}
			return parts.scan(rows)
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
	if parts.won {
		return parts.settled(a), true, nil
	}
	rec, _, err = parts.merge(d.cfg.Guard, false)
	if err != nil || rec.Final {
		return rec, false, err
	}
	// The winner committed while this statement waited: a new one sees it.
	parts = j.parts(a.ref)
	if err := query(j.read); err != nil {
		return rec, false, fmt.Errorf("read the winner's record: %w", err)
	}
	rec, _, err = parts.merge(d.cfg.Guard, false)
	if err == nil && !rec.Final {
		err = fmt.Errorf("%w: the aggregate changed while it was being settled", errGone)
	}
	return rec, false, err
}

// parts collects the rows of a joined statement.
type parts struct {
	plan    sqlplan.Guard
	ref     guard.Ref
	records []guard.Record
	found   []bool
	won     bool
	wonRow  sqlplan.Row
}

func (j *joined) parts(ref guard.Ref) *parts {
	n := j.plan.Parts()
	return &parts{plan: j.plan, ref: ref, records: make([]guard.Record, n), found: make([]bool, n)}
}

// scan reads rows of outcomeColumns and closes them.
func (p *parts) scan(rows pgx.Rows) error {
	defer rows.Close()
	for rows.Next() {
		var part int
		var whole int
		var row sqlplan.Row
		if err := rows.Scan(append(append([]any{&part}, row.Dest()...), &whole)...); err != nil {
			return err
		}
		if part == wonPart {
			p.won, p.wonRow = true, row
			continue
		}
		if err := p.add(part, row); err != nil {
			return err
		}
	}
	rows.Close()
	return rows.Err()
}

// scanClaims reads the results of each part's claim.
func (p *parts) scanClaims(results pgx.BatchResults, claims [][]sqlplan.Statement) error {
	for part, statements := range claims {
		for range statements[:len(statements)-1] {
			if _, err := results.Exec(); err != nil {
				return err
			}
		}
		var row sqlplan.Row
		err := results.QueryRow().Scan(row.Dest()...)
		if err == nil {
			err = p.add(part, row)
		}
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
	}
	return nil
}

func (p *parts) add(part int, row sqlplan.Row) error {
	rec, err := guard.RecordOf(row)
	p.records[part], p.found[part] = rec, true
	return err
}

// settled is the record of an aggregate that this attempt finalized.
func (p *parts) settled(a *attempt) guard.Record {
	rec := guard.Record{Final: true, State: a.State}
	if p.wonRow.At != nil {
		rec.Provenance = &guard.Provenance{Trigger: a.Trigger, At: *p.wonRow.At, Token: a.token, Digest: a.Digest}
	}
	return rec
}

// merge makes one record of the parts'. raced tells of a claim that a part was seen open but isn't held: another
// transaction was ahead, and the statement's snapshot is too old to show what it did.
func (p *parts) merge(g guard.Guard, claimed bool) (rec guard.Record, raced bool, err error) {
	for part, found := range p.found {
		if err := p.plan.Absent(part); !found && err != nil {
			return rec, false, err
		}
		raced = raced || claimed && !p.records[part].Final && p.records[part].XID == ""
	}
	if raced {
		return rec, true, nil
	}
	if m, ok := g.(merger); ok {
		rec, err = m.Merge(p.ref, p.records)
		return rec, false, err
	}
	return p.records[0], false, nil
}
