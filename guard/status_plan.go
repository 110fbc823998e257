package guard

import (
	"fmt"
	"maps"
	"slices"
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

func (p statusPlan) Columns() []string { return []string{"endstate_state"} }

func (p statusPlan) Dest(dest []any, row *sqlplan.Row) []any { return append(dest, &row.State) }

func (p statusPlan) Final(row *sqlplan.Row) bool { return p.Terminal.Terminal(row.State.String) }

func (p statusPlan) Absent() error { return p.absent() }

func (p statusPlan) where(a *sqlplan.Args) string {
	terms := make([]string, len(p.shape))
	for i := range p.shape {
		column := sqltx.Quote("", p.keys()[i])
		// The argument may take its type from this table's column.
		part := a.Named(fmt.Sprintf("part%d of %s.%s", i, p.table(), column), func(c *sqlplan.Call) any { return c.Parts[i] })
		terms[i] = match(p.shape[i], column, part)
	}
	return strings.Join(terms, " AND ")
}

func (p statusPlan) Source(a *sqlplan.Args) string {
	return fmt.Sprintf("SELECT coalesce(%s::text, '') AS endstate_state FROM %s WHERE %s", p.column(), p.table(), p.where(a))
}

// Claim locks the row if it is open, and that alone takes a transaction id: a loser gets none. One who waited for the lock
// looks at the row as the winner left it.
func (p statusPlan) Claim(bool) []func(*sqlplan.Args) string {
	return []func(*sqlplan.Args) string{func(a *sqlplan.Args) string {
		return fmt.Sprintf("SELECT pg_current_xact_id()::text FROM %s WHERE %s AND %s FOR NO KEY UPDATE",
			p.table(), p.where(a), p.Terminal.open(p.column()))
	}}
}

func (p statusPlan) Settle(a *sqlplan.Args, name, prev, condition string) string {
	state := a.Add(func(c *sqlplan.Call) any { return (*sqlplan.Text)(&c.State) })
	set := p.set(sqltx.Postgres, state, func(v any) string {
		if v == By {
			return a.Add(func(c *sqlplan.Call) any { return (*sqlplan.Text)(&c.Trigger) })
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
	return fmt.Sprintf("%s AS (\n\tUPDATE %s SET %s WHERE %s RETURNING %s::text COLLATE \"C\" AS endstate_said)", name, p.table(), set, where, p.column())
}

func (p statusPlan) Table() sqlplan.Table {
	return sqlplan.Table{Schema: p.Schema, Name: p.Status.Table, Known: p.triggerName(), Sets: append(slices.Collect(maps.Keys(p.Set)), p.Status.Column)}
}

func (p statusPlan) Open(a *sqlplan.Args) string {
	return fmt.Sprintf("EXISTS (SELECT FROM %s WHERE %s AND %s)", p.table(), p.where(a), p.Terminal.open(p.column()))
}
