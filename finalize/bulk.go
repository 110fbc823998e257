package finalize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Many aggregates are settled in one statement, each as its own Settle would: their states, their ledger entries and their
// events, or, for all of them, nothing.
//
// First it is tried as if nobody else were at work: one UPDATE, which waits for a row that is held elsewhere for bulkPatience at
// most. If that didn't do, the careful statement takes its rows one by one in the order of their keys, and skips those that it
// can't have at once. What that skips, or can't settle either, is settled alone.

// bulkPatience bounds how long a statement for many waits for any one lock. It is far below the second after which PostgreSQL
// looks for a deadlock: of two statements that wait for each other, both give up and go on carefully.
const bulkPatience = 10 * time.Millisecond

// bulk is the SQL for many aggregates at a time.
type bulk struct {
	any, each bulkSettle                   // for calls with any events, and with one usual event each
	read      func() sqlplan.BulkStatement // what the tables say of those that weren't moved
	again     func() sqlplan.BulkStatement // a look at what was settled, for tables whose triggers may have changed it since
}

type bulkSettle struct{ hopeful, careful func() sqlplan.BulkStatement }

func (j *joined) newBulk() bulk {
	settle := func(each, careful bool) func() sqlplan.BulkStatement {
		return sync.OnceValue(func() sqlplan.BulkStatement {
			given := sqlplan.ColumnCount
			if each {
				given = 0
			}
			return sqlplan.BuildBulk(given, bulkPatience, func(b *sqlplan.Bulk) ([]string, string) { return j.settleMany(b, each, careful) })
		})
	}
	return bulk{
		any:   bulkSettle{settle(false, false), settle(false, true)},
		each:  bulkSettle{settle(true, false), settle(true, true)},
		read:  sync.OnceValue(func() sqlplan.BulkStatement { return sqlplan.BuildBulk(0, 0, j.readMany) }),
		again: sync.OnceValue(func() sqlplan.BulkStatement { return sqlplan.BuildBulk(0, 0, j.stillWonMany) }),
	}
}

// moved is a setting of the transaction's: what a settleMany has moved, for the look again behind it.
const moved = "endstate.moved"

// settleMany returns one row: the places of those that it moved, or NULL if that are all; the same as the setting moved, as text
// that is empty for all; and when, if there is a ledger.
func (j *joined) settleMany(b *sqlplan.Bulk, each, careful bool) (clauses []string, query string) {
	var kept []string
	from := sqlplan.Item
	for i, plan := range j.plans {
		// A guard that only inserts has no row to wait at: it is held by a lock that isn't waited for.
		if careful || i == 0 && plan.Table().Insert {
			name := fmt.Sprintf("endstate_hold%d", i)
			clauses = append(clauses, plan.HoldMany(b, name, from, i > 0))
			from = name
		}
	}
	for i, plan := range j.plans {
		name := settleName(i)
		clauses = append(clauses, plan.SettleMany(b, name, from))
		if kept = append(kept, plan.Kept(b, name)); i > 0 {
			kept = append(kept, fmt.Sprintf("(SELECT count(*) FROM %s) = (SELECT count(*) FROM %s)", name, settleName(0)))
		}
		from = name
	}
	if each {
		clauses = append(clauses, j.outbox.ClauseEach(b, "endstate_events", from))
	} else {
		clauses = append(clauses, j.outbox.ClauseMany("endstate_events", from))
	}
	at := ""
	if j.ledger >= 0 {
		at = ", " + sqlplan.At
	}
	// A settle that moved only some of the guards, or that a table says something else of, is an error.
	right := sqltx.Unless(fmt.Sprintf("CASE WHEN %s THEN 'true' ELSE %s END", strings.Join(kept, " AND "), bulkSignal(b)))
	places := fmt.Sprintf("CASE WHEN count(*) < %s THEN coalesce(array_agg(endstate_n), '{}') END", b.Count())
	return clauses, fmt.Sprintf("SELECT %s, set_config('%s', coalesce((%s)::text, ''), true)%s FROM %s HAVING %s", places, moved, places, at, from, right)
}

func bulkSignal(b *sqlplan.Bulk) string {
	return sqltx.SignalOf(b.Value(func(c *sqlplan.Call) any { return pgtype.UUID{Bytes: c.Token, Valid: true} }) + "::uuid")
}

// sourcesMany joins what each plan's table says to Item.
func (j *joined) sourcesMany(b *sqlplan.Bulk) string {
	from := sqlplan.Item
	for i, plan := range j.plans {
		from += fmt.Sprintf(" LEFT JOIN LATERAL (%s) AS endstate_p%d ON true", plan.SourceMany(b, sqlplan.Item), i)
	}
	return from
}

// readMany returns, for each call, its place and each plan's columns.
func (j *joined) readMany(b *sqlplan.Bulk) (clauses []string, query string) {
	columns := []string{"endstate_n"}
	for i, plan := range j.plans {
		for _, column := range plan.Columns() {
			columns = append(columns, fmt.Sprintf("endstate_p%d.%s", i, column))
		}
	}
	return nil, fmt.Sprintf("SELECT %s FROM %s", strings.Join(columns, ", "), j.sourcesMany(b))
}

// stillWonMany looks at what the statement before it in the transaction has moved once more, and raises its signal if that says
// something else by now.
func (j *joined) stillWonMany(b *sqlplan.Bulk) (clauses []string, query string) {
	var kept []string
	for i, plan := range j.plans {
		kept = append(kept, fmt.Sprintf("endstate_p%d.%s COLLATE \"C\" = %s.%s", i, plan.Columns()[0], sqlplan.Item, b.State()))
	}
	if j.ledger >= 0 {
		kept = append(kept, fmt.Sprintf("endstate_p%d.token = %s.%s::text", j.ledger, sqlplan.Item, b.Token()))
	}
	places := fmt.Sprintf("current_setting('%s')", moved)
	changed := fmt.Sprintf("endstate_changed AS MATERIALIZED (\n\tSELECT %[1]s AS endstate_signal FROM %[2]s WHERE (%[3]s = '' OR endstate_n IN (SELECT unnest(nullif(%[3]s, '')::int8[]))) AND (%[4]s) IS NOT TRUE LIMIT 1)",
		bulkSignal(b), j.sourcesMany(b), places, strings.Join(kept, " AND "))
	return []string{changed}, "SELECT " + sqltx.Unless("coalesce((SELECT endstate_signal FROM endstate_changed), 'true')")
}

var _ bulkSettler = (*pgxDB)(nil)

func (d *pgxDB) bulkSize(a *attempt) int {
	if j := d.plan(a); j == nil {
		return 0
	}
	return 1000
}

func (d *pgxDB) settleBulk(ctx context.Context, attempts []*attempt) (results []settled, err error) {
	pooled, err := d.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = d.release(ctx, pooled, attempts[0], err) }()
	s := &bulkSession{pgxDB: d, joined: d.plan(attempts[0]), conn: pooled.Conn(), attempts: attempts, calls: make([]*sqlplan.Call, len(attempts))}
	if s.watch, err = d.watch(ctx, d.cfg.ClaimTimeout, s.conn, s.joined); err == nil && s.watch.Apart {
		err = errApart
	}
	if err != nil {
		return nil, withCause(ctx, err)
	}
	err = d.interruptibly(ctx, d.cfg.ClaimTimeout, s.conn, func(sending context.Context) error { return s.settle(ctx, sending) })
	if err == nil {
		return s.results, nil
	}
	if s.raised(err) {
		err = fmt.Errorf("%w: settled with others: %w", errUnmoved, err)
	} else if !errors.Is(err, errUnsent) && !sqltx.Definite(err) {
		err = fmt.Errorf("%w: %w", errUnanswered, err)
	}
	return nil, withCause(ctx, err)
}

// bulkSession settles attempts on one connection.
type bulkSession struct {
	*pgxDB
	*joined
	conn     *pgx.Conn
	watch    sqlplan.Watch
	attempts []*attempt
	calls    []*sqlplan.Call
	results  []settled
}

// bulkAgain is how often a bulk that met another one goes again as a whole, before its calls go alone. Sessions that are
// serializable by default break one of two off that are under way at a time.
const bulkAgain = 5

func (s *bulkSession) settle(ctx, sending context.Context) error {
	for i, a := range s.attempts {
		s.calls[i] = &a.Call
	}
	forms, columns := s.bulk.each, []any(nil)
	if !sqlplan.Each(s.calls) {
		forms, columns = s.bulk.any, sqlplan.ColumnsMany(s.calls)
	}
	st := forms.hopeful
	for again, careful := 0, false; ; {
		err := s.once(sending, st(), columns)
		state := sqltx.State(err)
		switch {
		case ctx.Err() != nil:
			return err
		case !careful && (state == sqltx.LockNotAvailable || state == sqltx.DeadlockDetected || s.raised(err)):
			careful, st = true, forms.careful
		case sqltx.Conflicted(err) && again < bulkAgain:
			again++
		default:
			return err
		}
	}
}

// raised reports whether err is of a statement that didn't do what it was asked to.
func (s *bulkSession) raised(err error) bool {
	_, raised := sqltx.NewSignal(s.attempts[0].Token).Raised(err)
	return raised
}

// once sends the statement once; where triggers may change what was settled, with a look at the rows behind it, in one transaction
// and one trip. Nothing is committed before the last answer.
func (s *bulkSession) once(ctx context.Context, st sqlplan.BulkStatement, columns []any) error {
	args := st.Args(columns, s.calls)
	var rows pgx.Rows
	var err error
	commit := func() error { return nil }
	if s.watch.Many {
		again := s.bulk.again()
		batch := &pgx.Batch{}
		batch.Queue(st.SQL, args...)
		batch.Queue(again.SQL, again.Args(nil, s.calls)...)
		results := s.conn.SendBatch(ctx, batch)
		commit = results.Close
		rows, err = results.Query()
	} else {
		rows, err = s.conn.Query(ctx, st.SQL, args...)
	}
	if err != nil {
		_ = commit() // which reports the same
		return unsent(s.conn, err)
	}
	scanErr := s.scan(rows)
	if err := commit(); err != nil || scanErr != nil {
		return cmp.Or(scanErr, err)
	}
	s.readRest(ctx)
	return nil
}

// scan reads the row of a settleMany.
func (s *bulkSession) scan(rows pgx.Rows) error {
	var places []int64
	var at pgtype.Timestamptz
	dest := []any{&places, nil}
	if s.ledger >= 0 {
		dest = append(dest, &at)
	}
	if _, err := scanRow(rows, dest); err != nil {
		return err
	}
	s.results = make([]settled, len(s.attempts))
	won := func(i int) {
		a := s.attempts[i]
		a.at = at
		s.results[i] = settled{s.settled(a), true, true}
	}
	if places == nil {
		for i := range s.attempts {
			won(i)
		}
	}
	for _, place := range places {
		if place < 1 || int(place) > len(s.attempts) {
			return errors.New("the statement reported an aggregate that it wasn't asked about")
		}
		won(int(place) - 1)
	}
	return nil
}

// readRest reads what the tables say of those that weren't moved: most have been before, or were while the statement waited for
// them. The others are settled alone, and so are all that can't be read now.
func (s *bulkSession) readRest(ctx context.Context) {
	var rest []int
	var calls []*sqlplan.Call
	for i, call := range s.calls {
		if !s.results[i].done {
			rest, calls = append(rest, i), append(calls, call)
		}
	}
	if len(rest) == 0 {
		return
	}
	st := s.bulk.read()
	rows, err := s.conn.Query(ctx, st.SQL, st.Args(nil, calls)...)
	if err != nil {
		return
	}
	defer rows.Close()
	seen := s.answer()
	var n int64
	dest := []any{&n}
	for i, plan := range s.joined.plans {
		dest = plan.Dest(dest, &seen.rows[i])
	}
	for rows.Next() {
		if rows.Scan(dest...) != nil || n < 1 || int(n) > len(rest) {
			return
		}
		i := rest[n-1]
		if rec, err := s.cfg.guards.Record(s.attempts[i].ref, s.joined.plans, seen.rows); err == nil && rec.Final {
			s.results[i] = settled{rec, false, true}
		}
	}
}
