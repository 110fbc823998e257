package guard

import (
	"fmt"
	"strings"

	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// statusPlan is a Status as SQL, for keys of one shape. The database applies the terminal states itself, so that claiming
// and settling take one statement each.
type statusPlan struct {
	Status
	shape string
}

var _ sqlplan.Guard = statusPlan{}

func (p statusPlan) Columns() []string { return []string{"present", "state"} }

func (p statusPlan) Dest(row *sqlplan.Row) []any { return []any{&row.Present, &row.State} }

func (p statusPlan) Final(row *sqlplan.Row) bool {
	return row.State != nil && p.Terminal.Terminal(*row.State)
}

func (p statusPlan) Absent() error { return p.absent() }

func (p statusPlan) where(a *sqlplan.Args) string {
	terms := make([]string, len(p.shape))
	for i := range p.shape {
		terms[i] = sqltx.Quote("", p.keys()[i]) + " = " + a.Add(func(c *sqlplan.Call) any { return c.Parts[i] }) + cast(p.shape[i])
	}
	return strings.Join(terms, " AND ")
}

func (p statusPlan) source(where string) string {
	return fmt.Sprintf("SELECT true AS present, %s::text AS state FROM %s WHERE %s", p.column(), p.table(), where)
}

func (p statusPlan) Source(a *sqlplan.Args) string { return p.source(p.where(a)) }

// Claim reads the row and locks it if it is open. pg_current_xact_id() is evaluated only for a row that the snapshot shows
// open, so a loser gets no transaction id. A loser who waited for the lock gets what the snapshot showed, open but without
// an id: the sign to read again.
func (p statusPlan) Claim(bool) []func(*sqlplan.Args) string {
	return []func(*sqlplan.Args) string{func(a *sqlplan.Args) string {
		where := p.where(a)
		return fmt.Sprintf(`SELECT present, state, xid FROM (%s) AS s LEFT JOIN (
	SELECT pg_current_xact_id()::text AS xid FROM %s WHERE %s AND %s FOR NO KEY UPDATE) AS held ON true`,
			p.source(where), p.table(), where, p.Terminal.open(p.column()))
	}}
}

func (p statusPlan) Settle(a *sqlplan.Args, name, prev, condition string) string {
	state := a.Add(func(c *sqlplan.Call) any { return c.State })
	set := p.set(sqltx.Postgres, state, func(v any) string {
		if v == By {
			return a.Add(func(c *sqlplan.Call) any { return c.Trigger })
		}
		return a.Add(func(*sqlplan.Call) any { return v })
	})
	where := p.where(a) + " AND " + p.Terminal.open(p.column())
	if prev != "" {
		where += " AND EXISTS (SELECT FROM " + prev + ")"
	}
	if condition != "" {
		where += " AND " + condition
	}
	return fmt.Sprintf("%s AS (\n\tUPDATE %s SET %s WHERE %s RETURNING true)", name, p.table(), set, where)
}

func (p statusPlan) Open(a *sqlplan.Args) string {
	return fmt.Sprintf("EXISTS (SELECT FROM %s WHERE %s AND %s)", p.table(), p.where(a), p.Terminal.open(p.column()))
}
