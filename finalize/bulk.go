package finalize

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// Many aggregates are settled in one statement, each as its own Settle would: their states, their ledger entries and their
// events, or, for all of them, nothing. The statement never waits long for what another transaction holds: it skips rows and
// advisory locks that it can't have at once, and where a lock can't be skipped (an index entry that isn't committed yet) it
// gives up. What it skips or gives up is settled alone.

// bulkPatience bounds how long a statement for many waits for any one lock.
const bulkPatience = 30 * time.Millisecond

// newBulk builds the statement of plans, if each of them can do it.
func (j *joined) newBulk() *sqlplan.BulkStatement {
	plans := make([]sqlplan.BulkGuard, len(j.plans))
	for i, plan := range j.plans {
		var ok bool
		if plans[i], ok = plan.(sqlplan.BulkGuard); !ok {
			return nil
		}
	}
	// The timeout is in force before Item has a row, and ends with the statement's transaction.
	patience := fmt.Sprintf("endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '%d', true)),\n", bulkPatience.Milliseconds())
	st := sqlplan.BuildBulk(outbox.ColumnCount, patience, func(b *sqlplan.Bulk) string { return j.settleMany(b, plans) })
	return &st
}

// settleMany returns a row for each call: n, whether it won and when, and for those that didn't, each plan's columns as the
// statement's snapshot shows them.
func (j *joined) settleMany(b *sqlplan.Bulk, plans []sqlplan.BulkGuard) string {
	clauses := []string{fmt.Sprintf("endstate_wanted AS MATERIALIZED (SELECT %s.* FROM endstate_patience CROSS JOIN %s)", sqlplan.Item, sqlplan.Item)}
	from := "endstate_wanted"
	for i, plan := range plans {
		name := fmt.Sprintf("endstate_hold%d", i)
		clauses = append(clauses, plan.HoldMany(b, name, from, i > 0))
		from = name
	}
	clauses = append(clauses, fmt.Sprintf("endstate_held AS MATERIALIZED (SELECT %s.*, clock_timestamp() AS endstate_at FROM %s)", from, from))
	from = "endstate_held"
	var moved []string
	for i, plan := range plans {
		name := fmt.Sprintf("endstate_settle%d", i)
		clauses = append(clauses, plan.SettleMany(b, name, from, fmt.Sprintf("endstate_hold%d", i)))
		moved = append(moved, fmt.Sprintf("(SELECT count(*) FROM %s)", name))
		from = name
	}
	clauses = append(clauses, j.outbox.ClauseMany("endstate_events", from))

	won, nulls := "true", strings.Builder{}
	if len(moved) > 1 {
		// A settle that moved only some of the guards is an error.
		won = fmt.Sprintf("1 / (%s)::int = 1", strings.Join(sameAsFirst(moved), " AND "))
	}
	var columns, sources []string
	for i, plan := range plans {
		for _, column := range plan.Columns() {
			nulls.WriteString(", NULL")
			columns = append(columns, fmt.Sprintf("endstate_p%d.%s", i, column))
		}
		sources = append(sources, fmt.Sprintf("LEFT JOIN LATERAL (%s) AS endstate_p%d ON true", plan.SourceMany(b, sqlplan.Item), i))
	}
	return strings.Join(clauses, ",\n") + fmt.Sprintf(`
SELECT %[1]s.endstate_n, NULL::boolean, NULL::timestamptz, %[2]s FROM %[1]s %[3]s WHERE %[1]s.endstate_n NOT IN (SELECT endstate_n FROM endstate_settle0)
UNION ALL SELECT endstate_n, %[4]s, endstate_at%[5]s FROM endstate_settle0`, sqlplan.Item, strings.Join(columns, ", "), strings.Join(sources, " "), won, nulls.String())
}

// sameAsFirst are conditions that all counts are the same.
func sameAsFirst(counts []string) []string {
	var conditions []string
	for _, count := range counts[1:] {
		conditions = append(conditions, count+" = "+counts[0])
	}
	return conditions
}

var _ bulkSettler = (*pgxDB)(nil)

func (d *pgxDB) bulkSize(a *attempt) int {
	if j := d.plan(a); j == nil || j.bulk() == nil {
		return 0
	}
	return 1000
}

func (d *pgxDB) settleBulk(ctx context.Context, attempts []*attempt) ([]settled, error) {
	j := d.plan(attempts[0])
	calls, events := make([]*sqlplan.Call, len(attempts)), make([][]outbox.Event, len(attempts))
	for i, a := range attempts {
		if j.ledger >= 0 {
			a.digest()
		}
		calls[i], events[i] = &a.Call, a.events
	}
	st := j.bulk()
	args := st.Args(d.cfg.Outbox.ColumnsMany(events), calls)

	pooled, err := d.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer pooled.Release()
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.ClaimTimeout, ErrBusy)
	defer cancel()
	var results []settled
	err = d.interruptibly(ctx, pooled.Conn(), func(ctx context.Context) error {
		rows, err := pooled.Query(ctx, st.SQL, args...)
		if err != nil {
			return err
		}
		results, err = j.scanMany(rows, attempts, d.cfg.Guard)
		return err
	})
	if err == nil {
		return results, nil
	}
	if !sqltx.Definite(err) {
		err = fmt.Errorf("%w: %w", errUnanswered, err)
	}
	return nil, withCause(ctx, err)
}

// scanMany reads a row for each attempt. Of those that didn't win, only what is final for sure is taken from the statement's
// snapshot; the rest is settled alone, and found out what is wrong with it.
func (j *joined) scanMany(rows pgx.Rows, attempts []*attempt, g guard.Guard) ([]settled, error) {
	defer rows.Close()
	results := make([]settled, len(attempts))
	seen := j.answer()
	var n int32
	dest := []any{&n, &seen.won, &seen.at}
	for i, plan := range j.plans {
		dest = plan.Dest(dest, &seen.rows[i])
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		if n < 0 || int(n) >= len(attempts) {
			return nil, errors.New("the statement told of an aggregate that it wasn't asked of")
		}
		a := attempts[n]
		if seen.won.Bool {
			seen.at.Valid = j.ledger >= 0
			results[n] = settled{seen.settled(a), true, true}
		} else if rec, err := seen.merge(g, a.ref); err == nil && rec.Final {
			results[n] = settled{rec, false, true}
		}
	}
	rows.Close()
	return results, rows.Err()
}
