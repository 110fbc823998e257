package guard

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sqlplan"
)

// RecordOf turns a plan's row into a record; found is false when the guard had no row. It serves finalize, which sends the
// plan's statements itself.
func RecordOf(row sqlplan.Row) (Record, error) {
	rec := Record{Final: row.Final}
	if row.State != nil {
		rec.State = *row.State
	}
	if row.XID != nil {
		rec.XID = *row.XID
	}
	if row.Token != nil {
		token, err := uuid.Parse(*row.Token)
		if err != nil {
			return Record{}, fmt.Errorf("guard: token of a ledger row: %w", err)
		}
		rec.Provenance = &Provenance{Token: token, Digest: row.Digest}
		if row.Trigger != nil {
			rec.Provenance.Trigger = *row.Trigger
		}
		if row.At != nil {
			rec.Provenance.At = *row.At
		}
	}
	return rec, nil
}

// readPlan runs a part's Read.
func readPlan(ctx context.Context, q Querier, plan sqlplan.Guard, part int, ref Ref) (Record, error) {
	return runPlan(ctx, q, sqlplan.Build(plan.Read(part)), ref)
}

// claimPlan runs a one-part plan's Claim, a statement at a time.
func claimPlan(ctx context.Context, tx Tx, plan sqlplan.Guard, ref Ref) (Record, error) {
	statements := plan.Claim(0)
	for _, write := range statements[:len(statements)-1] {
		st := sqlplan.Build(write)
		if _, err := tx.Exec(ctx, st.SQL, st.Args(ref.call())...); err != nil {
			return Record{}, err
		}
	}
	return runPlan(ctx, tx, sqlplan.Build(statements[len(statements)-1]), ref)
}

func runPlan(ctx context.Context, q Querier, st sqlplan.Statement, ref Ref) (Record, error) {
	var row sqlplan.Row
	err := q.QueryRow(ctx, st.SQL, st.Args(ref.call())...).Scan(row.Dest()...)
	if errors.Is(err, pgx.ErrNoRows) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, err
	}
	return RecordOf(row)
}

// call are the arguments of statements that only look an aggregate up.
func (r Ref) call() *sqlplan.Call {
	return &sqlplan.Call{Aggregate: r.Aggregate, Key: r.Key.Encode(), Parts: r.Key.Args()}
}
