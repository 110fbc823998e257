package guard

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqlplan"
)

// What finalize asks of the guards that All returns. The methods are those of an unexported type, so that they can show what is
// internal and are no part of the package's face.

// Plans returns the SQL of each guard for keys of one shape, for finalize to join with its own; nil if one is of another package
// (though it embeds one of these, it may do otherwise), or asks a Func what is terminal.
func (g all) Plans(shape string) []sqlplan.Guard {
	var plans []sqlplan.Guard
	for _, guard := range g {
		if p, ok := guard.(*Status); ok {
			guard = *p
		}
		switch guard := guard.(type) {
		case Status:
			if guard.Terminal.fn != nil {
				return nil
			}
			plans = append(plans, statusPlan{guard, shape})
		case Ledger:
			plans = append(plans, ledgerPlan{guard})
		case *Ledger:
			plans = append(plans, ledgerPlan{*guard})
		default:
			return nil
		}
	}
	return plans
}

// Record makes one record of what the tables of Plans say.
func (g all) Record(ref Ref, plans []sqlplan.Guard, rows []sqlplan.Row) (Record, error) {
	if len(plans) == 1 {
		return planRecord(plans[0], &rows[0])
	}
	records := make([]Record, len(plans))
	for i, plan := range plans {
		rec, err := planRecord(plan, &rows[i])
		if err != nil {
			return Record{}, err
		}
		records[i] = rec
	}
	return g.merge(ref, records)
}

// planRecord turns a plan's row into a record.
func planRecord(plan sqlplan.Guard, row *sqlplan.Row) (Record, error) {
	if !row.State.Valid && plan.Absent() != nil {
		return Record{}, plan.Absent()
	}
	rec := Record{Final: plan.Final(row), State: row.State.String}
	if row.Token.Valid {
		token, err := uuid.Parse(row.Token.String)
		if err != nil {
			return Record{}, fmt.Errorf("guard: token of a ledger entry: %w", err)
		}
		rec.Provenance = &Provenance{Trigger: row.Trigger.String, At: row.At.Time, Token: token, Digest: row.Digest}
	}
	return rec, nil
}

// readPlan runs a plan's Source.
func readPlan(ctx context.Context, q endstate.Querier, plan sqlplan.Guard, ref Ref) (Record, error) {
	var row sqlplan.Row
	st := sqlplan.Build(plan.Source)
	err := q.QueryRow(ctx, st.SQL, st.Args(ref.call())...).Scan(plan.Dest(nil, &row)...)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return Record{}, err
	}
	return planRecord(plan, &row)
}

// claimPlan runs a plan's Claim, a statement at a time, and reads the record if that holds nothing.
func claimPlan(ctx context.Context, tx endstate.Tx, plan sqlplan.Guard, ref Ref) (Record, error) {
	statements := plan.Claim(false)
	hold := sqlplan.Build(statements[len(statements)-1])
	for {
		for _, write := range statements[:len(statements)-1] {
			st := sqlplan.Build(write)
			if _, err := tx.Exec(ctx, st.SQL, st.Args(ref.call())...); err != nil {
				return Record{}, err
			}
		}
		var rec Record
		err := tx.QueryRow(ctx, hold.SQL, hold.Args(ref.call())...).Scan(&rec.XID)
		if !errors.Is(err, pgx.ErrNoRows) {
			return rec, err
		}
		rec, err = readPlan(ctx, tx, plan, ref)
		if err != nil || rec.Final {
			return rec, err
		}
		// It was deleted between the two statements.
	}
}

// call are the arguments of statements that only look an aggregate up.
func (r Ref) call() *sqlplan.Call {
	return &sqlplan.Call{Aggregate: r.Aggregate, Key: r.Key.Encode(), Parts: r.Key.Args()}
}
