package guard

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sqlplan"
)

// PlanRecord turns a plan's row into a record, for finalize, which sends the plan's statements itself.
func PlanRecord(plan sqlplan.Guard, row *sqlplan.Row) (Record, error) {
	if row.Present == nil && plan.Absent() != nil {
		return Record{}, plan.Absent()
	}
	rec := Record{Final: plan.Final(row)}
	if row.State != nil {
		rec.State = *row.State
	}
	if row.XID != nil {
		rec.XID = *row.XID
	}
	if row.Token != nil && row.Trigger != nil && row.At != nil {
		token, err := uuid.Parse(*row.Token)
		if err != nil {
			return Record{}, fmt.Errorf("guard: token of a ledger entry: %w", err)
		}
		rec.Provenance = &Provenance{Trigger: *row.Trigger, At: *row.At, Token: token, Digest: row.Digest}
	}
	return rec, nil
}

// readPlan runs a plan's Source.
func readPlan(ctx context.Context, q Querier, plan sqlplan.Guard, ref Ref) (Record, error) {
	var row sqlplan.Row
	return runPlan(ctx, q, plan, plan.Source, ref, &row, plan.Dest(&row))
}

// claimPlan runs a plan's Claim, a statement at a time.
func claimPlan(ctx context.Context, tx Tx, plan sqlplan.Guard, ref Ref) (Record, error) {
	statements := plan.Claim(false)
	for _, write := range statements[:len(statements)-1] {
		st := sqlplan.Build(write)
		if _, err := tx.Exec(ctx, st.SQL, st.Args(ref.call())...); err != nil {
			return Record{}, err
		}
	}
	var row sqlplan.Row
	return runPlan(ctx, tx, plan, statements[len(statements)-1], ref, &row, append(plan.Dest(&row), &row.XID))
}

func runPlan(ctx context.Context, q Querier, plan sqlplan.Guard, write func(*sqlplan.Args) string, ref Ref, row *sqlplan.Row, dest []any) (Record, error) {
	st := sqlplan.Build(write)
	err := q.QueryRow(ctx, st.SQL, st.Args(ref.call())...).Scan(dest...)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return Record{}, err
	}
	return PlanRecord(plan, row)
}

// call are the arguments of statements that only look an aggregate up.
func (r Ref) call() *sqlplan.Call {
	return &sqlplan.Call{Aggregate: r.Aggregate, Key: r.Key.Encode(), Parts: r.Key.Args()}
}
