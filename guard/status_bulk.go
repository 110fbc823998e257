package guard

import (
	"fmt"
	"strings"

	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// whereMany finds the row of the table, named endstate_row, that belongs to a row of from.
func (p statusPlan) whereMany(b *sqlplan.Bulk, from string) string {
	terms := make([]string, len(p.shape))
	for i := range p.shape {
		column := sqltx.Quote("", p.keys()[i])
		terms[i] = match(p.shape[i], "endstate_row."+column, from+"."+p.part(b, i, column))
	}
	return strings.Join(terms, " AND ")
}

// part is the column of the calls' parts of the key. Those whose type only the key column tells are taken for it.
func (p statusPlan) part(b *sqlplan.Bulk, i int, column string) string {
	switch p.shape[i] {
	case kindInt:
		return b.IntPart(i)
	case kindBytes:
		return b.BytesPart(i)
	case kindUUID, kindDate:
		return b.TextPart(i)
	}
	return b.PartLike(i, column, p.table())
}

func (p statusPlan) SourceMany(b *sqlplan.Bulk, from string) string {
	return fmt.Sprintf("SELECT coalesce(endstate_row.%s::text, '') AS endstate_state FROM %s AS endstate_row WHERE %s LIMIT 1", p.column(), p.table(), p.whereMany(b, from))
}

// HoldMany locks row by row, in the order of from, each through the key's index: a LATERAL that locks can't be turned into a join.
func (p statusPlan) HoldMany(b *sqlplan.Bulk, name, from string, _ bool) string {
	return fmt.Sprintf(`%s AS MATERIALIZED (
	SELECT %s.* FROM %s CROSS JOIN LATERAL (
		SELECT FROM %s AS endstate_row WHERE %s AND %s FOR NO KEY UPDATE SKIP LOCKED) AS endstate_found)`,
		name, from, from, p.table(), p.whereMany(b, from), p.Terminal.open("endstate_row."+p.column()))
}

// SettleMany looks at a row again that it had to wait for, as any UPDATE under READ COMMITTED does.
func (p statusPlan) SettleMany(b *sqlplan.Bulk, name, from string) string {
	set := p.set(sqltx.Postgres, b.StateOf("endstate_call", p.column(), p.table()), func(v any) string {
		if v == By {
			return "endstate_call." + b.Trigger()
		}
		return b.Value(func(*sqlplan.Call) any { return v })
	})
	return fmt.Sprintf("%s AS (\n\tUPDATE %s AS endstate_row SET %s FROM %s AS endstate_call WHERE %s AND %s RETURNING endstate_call.*, endstate_row.%s::text COLLATE \"C\" = endstate_call.%s AS %s)",
		name, p.table(), set, from, p.whereMany(b, "endstate_call"), p.Terminal.open("endstate_row."+p.column()), p.column(), b.State(), saidColumn(name))
}

// saidColumn is the column in which the SettleMany of this name returns whether a row says what was asked for.
func saidColumn(settle string) string { return settle + "_said" }

// Kept holds if no row says something else, and none has another one's key.
func (p statusPlan) Kept(_ *sqlplan.Bulk, name string) string {
	return fmt.Sprintf("(SELECT coalesce(bool_and(%s IS TRUE), true) AND count(*) = count(DISTINCT endstate_n) FROM %s)", saidColumn(name), name)
}
