package finalize

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqlplan"
)

// lookFirst reads the record ahead of all else. An error ends the call; whatever else it sees, or that it can't look, is left to the
// attempt itself.
func (d *pgxDB) lookFirst(ctx context.Context, conn *pgx.Conn, j *joined, a *attempt) (rec guard.Record, err error) {
	a.look = false
	rec, err = d.read(ctx, d.cfg.ClaimTimeout, conn, j, a)
	switch {
	case err == nil && rec.Final:
		return rec, nil
	case ctx.Err() != nil:
		return rec, withCause(ctx, cmp.Or(err, context.Cause(ctx)))
	case conn.IsClosed():
		return rec, fmt.Errorf("%w: %w", errGone, err)
	}
	return guard.Record{}, nil
}

// read reads the record in one statement, and so in one snapshot.
func (d *pgxDB) read(ctx context.Context, limit time.Duration, conn *pgx.Conn, j *joined, a *attempt) (rec guard.Record, err error) {
	seen := j.answer()
	err = d.interruptibly(ctx, limit, conn, func(ctx context.Context) error {
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

// answer is what a statement returns that reads.
type answer struct {
	*joined
	rows []sqlplan.Row // by plan
	dest []any

	room struct { // for what most have: a status column and a ledger
		rows [2]sqlplan.Row
		dest [8]any
	}
}

func (j *joined) answer() *answer {
	r := &answer{joined: j}
	r.rows, r.dest = slices.Grow(r.room.rows[:0], len(j.plans))[:len(j.plans)], r.room.dest[:0]
	return r
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
