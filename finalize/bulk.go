package finalize

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Many aggregates are settled in one statement, each as its own Settle would: their states, their ledger entries and their
// events, or, for all of them, nothing. The statement never waits long for what another transaction holds: it skips rows and
// advisory locks that it can't have at once, and where a lock can't be skipped (an index entry that isn't committed yet) it
// gives up. What it skips or gives up is settled alone.

// bulkPatience bounds how long a statement for many waits for any one lock.
const bulkPatience = 30 * time.Millisecond

// newBulk builds the statement.
func (j *joined) newBulk() sqlplan.BulkStatement {
	// The timeout is in force before Item has a row, and ends with the statement's transaction.
	patience := fmt.Sprintf("endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '%d', true)),\n", bulkPatience.Milliseconds())
	return sqlplan.BuildBulk(sqlplan.ColumnCount, patience, j.settleMany)
}

// newBulkAgain builds the look at what a bulk has settled, for tables whose triggers may have changed it since.
func (j *joined) newBulkAgain() sqlplan.BulkStatement {
	return sqlplan.BuildBulk(0, "", func(b *sqlplan.Bulk) string {
		var sources, kept []string
		for i, plan := range j.plans {
			sources = append(sources, fmt.Sprintf("LEFT JOIN LATERAL (%s) AS endstate_p%d ON true", plan.SourceMany(b, sqlplan.Item), i))
			kept = append(kept, fmt.Sprintf("endstate_p%d.%s COLLATE \"C\" = %s.%s", i, plan.Columns()[0], sqlplan.Item, b.State()))
		}
		if j.ledger >= 0 {
			kept = append(kept, fmt.Sprintf("endstate_p%d.token = %s.%s", j.ledger, sqlplan.Item, b.Token()))
		}
		return fmt.Sprintf("endstate_changed AS MATERIALIZED (\n\tSELECT %s::text AS endstate_signal FROM %s %s WHERE (%s) IS NOT TRUE LIMIT 1)\nSELECT %s",
			b.Value(func(c *sqlplan.Call) any { return c.Signal }), sqlplan.Item, strings.Join(sources, " "), strings.Join(kept, " AND "),
			sqltx.Unless("coalesce((SELECT endstate_signal FROM endstate_changed), 'true')"))
	})
}

// settleMany returns a row for each call: n, whether it won and when, and for those that didn't, each plan's columns as the
// statement's snapshot shows them.
func (j *joined) settleMany(b *sqlplan.Bulk) string {
	clauses := []string{fmt.Sprintf("endstate_wanted AS MATERIALIZED (SELECT %s.* FROM endstate_patience CROSS JOIN %s)", sqlplan.Item, sqlplan.Item)}
	from := "endstate_wanted"
	for i, plan := range j.plans {
		name := fmt.Sprintf("endstate_hold%d", i)
		clauses = append(clauses, plan.HoldMany(b, name, from, i > 0))
		from = name
	}
	clauses = append(clauses, fmt.Sprintf("endstate_held AS MATERIALIZED (SELECT %s.*, clock_timestamp() AS endstate_at FROM %s)", from, from))
	from = "endstate_held"
	var kept, moved []string
	for i, plan := range j.plans {
		name := fmt.Sprintf("endstate_settle%d", i)
		clauses = append(clauses, plan.SettleMany(b, name, from, fmt.Sprintf("endstate_hold%d", i)))
		kept = append(kept, plan.Kept(b, name))
		if moved = append(moved, fmt.Sprintf("(SELECT count(*) FROM %s)", name)); i > 0 {
			kept = append(kept, moved[i]+" = "+moved[0])
		}
		from = name
	}
	clauses = append(clauses, j.outbox.ClauseMany("endstate_events", from))

	// A settle that moved only some of the guards, or that a table says something else of, is an error.
	right := sqltx.Unless(fmt.Sprintf("CASE WHEN %s THEN 'true' ELSE %s::text END", strings.Join(kept, " AND "), b.Value(func(c *sqlplan.Call) any { return c.Signal })))
	nulls := strings.Builder{}
	var columns, sources []string
	for i, plan := range j.plans {
		for _, column := range plan.Columns() {
			nulls.WriteString(", NULL")
			columns = append(columns, fmt.Sprintf("endstate_p%d.%s", i, column))
		}
		sources = append(sources, fmt.Sprintf("LEFT JOIN LATERAL (%s) AS endstate_p%d ON true", plan.SourceMany(b, sqlplan.Item), i))
	}
	return strings.Join(clauses, ",\n") + fmt.Sprintf(`
SELECT %[1]s.endstate_n, NULL::boolean, NULL::timestamptz, %[2]s FROM %[1]s %[3]s WHERE %[1]s.endstate_n NOT IN (SELECT endstate_n FROM endstate_settle0) AND %[4]s
UNION ALL SELECT endstate_n, true, endstate_at%[5]s FROM endstate_settle0`, sqlplan.Item, strings.Join(columns, ", "), strings.Join(sources, " "), right, nulls.String())
}

var _ bulkSettler = (*pgxDB)(nil)

func (d *pgxDB) bulkSize(a *attempt) int {
	if j := d.plan(a); j == nil {
		return 0
	}
	return 1000
}

func (d *pgxDB) settleBulk(ctx context.Context, attempts []*attempt) (results []settled, err error) {
	j := d.plan(attempts[0])
	calls, events := make([]*sqlplan.Call, len(attempts)), make([][]sqlplan.Event, len(attempts))
	for i, a := range attempts {
		calls[i], events[i] = &a.Call, a.rows()
	}
	st := j.bulk()
	args := st.Args(sqlplan.ColumnsMany(events), calls)

	pooled, err := d.acquire(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.ClaimTimeout, ErrBusy)
	defer cancel()
	defer func() { err = d.release(ctx, pooled, attempts[0], err) }()
	w, err := d.watch(ctx, pooled.Conn(), j)
	if err == nil && w.Apart {
		err = errApart
	}
	if err != nil {
		return nil, withCause(ctx, err)
	}
	err = d.interruptibly(ctx, pooled.Conn(), func(ctx context.Context) error {
		for again := 0; ; again++ {
			results, err = d.bulkOnce(ctx, pooled.Conn(), j, attempts, w.Again, st.SQL, args)
			if !sqltx.Conflicted(err) || again == bulkAgain || ctx.Err() != nil {
				return err
			}
		}
	})
	if err == nil {
		return results, nil
	}
	if _, raised := sqltx.Signal(attempts[0].Signal).Raised(err); raised {
		err = fmt.Errorf("%w: settled with others: %w", errUnmoved, err)
	} else if !errors.Is(err, errUnsent) && !sqltx.Definite(err) {
		err = fmt.Errorf("%w: %w", errUnanswered, err)
	}
	return nil, withCause(ctx, err)
}

// bulkAgain is how often a bulk that met another one goes again as a whole, before its calls go alone. Sessions that are
// serializable by default break one of two off that are under way at a time.
const bulkAgain = 5

// bulkOnce sends the statement once.
func (d *pgxDB) bulkOnce(ctx context.Context, conn *pgx.Conn, j *joined, attempts []*attempt, inTwo bool, query string, args []any) ([]settled, error) {
	if inTwo {
		return d.bulkInTwo(ctx, conn, j, attempts, query, args)
	}
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return nil, unsent(conn, err)
	}
	return j.scanMany(rows, attempts, d.cfg.guards)
}

// bulkInTwo is settleBulk for tables whose triggers may change what was settled: a trip to settle, and one to look at the rows
// again and commit.
func (d *pgxDB) bulkInTwo(ctx context.Context, conn *pgx.Conn, j *joined, attempts []*attempt, query string, args []any) (results []settled, err error) {
	defer func() {
		if !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
			if _, rollbackErr := conn.Exec(ctx, "rollback"); rollbackErr != nil {
				_ = conn.Close(ctx)
			}
		}
	}()
	batch := &pgx.Batch{}
	batch.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	batch.Queue(query, args...)
	first := conn.SendBatch(ctx, batch)
	_, err = first.Exec()
	if err == nil {
		var rows pgx.Rows
		if rows, err = first.Query(); err == nil {
			results, err = j.scanMany(rows, attempts, d.cfg.guards)
		}
	}
	if closeErr := first.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnsent, err) // COMMIT wasn't
	}
	var won []*sqlplan.Call
	for i, a := range attempts {
		if results[i].won {
			won = append(won, &a.Call)
		}
	}
	batch = &pgx.Batch{}
	if len(won) > 0 {
		again := j.bulkAgain()
		won[0].Signal = attempts[0].Signal
		batch.Queue(again.SQL, again.Args(nil, won)...)
	}
	batch.Queue("commit")
	second := conn.SendBatch(ctx, batch)
	for range batch.Len() {
		var tag pgconn.CommandTag
		if tag, err = second.Exec(); err != nil {
			break
		}
		if tag.String() == "ROLLBACK" {
			err = fmt.Errorf("%w: %w", errUnsent, ErrTxAborted)
		}
	}
	if closeErr := second.Close(); err == nil {
		err = closeErr
	}
	return results, err
}

// scanMany reads a row for each attempt. Of those that didn't win, only what is final for sure is taken from the statement's
// snapshot; the rest is settled alone, and found out what is wrong with it.
func (j *joined) scanMany(rows pgx.Rows, attempts []*attempt, g guards) ([]settled, error) {
	defer rows.Close()
	results := make([]settled, len(attempts))
	seen := j.answer()
	var n int32
	var won pgtype.Bool
	var at pgtype.Timestamptz
	dest := []any{&n, &won, &at}
	for i, plan := range j.plans {
		dest = plan.Dest(dest, &seen.rows[i])
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		if n < 0 || int(n) >= len(attempts) {
			return nil, errors.New("the statement reported an aggregate that it wasn't asked about")
		}
		a := attempts[n]
		if won.Bool {
			a.at = at
			results[n] = settled{j.settled(a), true, true}
		} else if rec, err := g.Record(a.ref, j.plans, seen.rows); err == nil && rec.Final {
			results[n] = settled{rec, false, true}
		}
	}
	rows.Close()
	return results, rows.Err()
}
