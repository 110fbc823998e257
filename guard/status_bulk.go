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

// HoldMany locks row by row, in the order of from, each through the key's index: a join might be planned while the table is
// small, and scan it when it has grown. A LATERAL that locks can't be turned into a join.
func (p statusPlan) HoldMany(b *sqlplan.Bulk, name, from string, _ bool) string {
	return fmt.Sprintf(`%s AS MATERIALIZED (
	SELECT %s.*, endstate_found.* FROM %s CROSS JOIN LATERAL (
		SELECT endstate_row.ctid AS %s FROM %s AS endstate_row WHERE %s AND %s FOR NO KEY UPDATE SKIP LOCKED) AS endstate_found)`,
		name, from, from, tid(name), p.table(), p.whereMany(b, from), p.Terminal.open("endstate_row."+p.column()))
}

// tid is the column in which the HoldMany of this name notes where a row is.
func tid(hold string) string { return hold + "_tid" }

// SettleMany finds the held rows by where they are, without another look into the index. The array makes that the one way
// there is: by a join alone the table might be scanned, with any plan that was made for as many rows as there may be. The key
// is compared since two partitions may have rows in the same place. A row that another transaction changed between the statement's snapshot and its
// lock is not found there, and stays as it is.
func (p statusPlan) SettleMany(b *sqlplan.Bulk, name, from, hold string) string {
	states, place := b.StateFor()
	state := fmt.Sprintf("(array_cat(ARRAY[endstate_row.%s], %s))[2 + endstate_call.%s]", p.column(), states, place)
	set := p.set(sqltx.Postgres, state, func(v any) string {
		if v == By {
			return "endstate_call." + b.Trigger()
		}
		return b.Value(func(*sqlplan.Call) any { return v })
	})
	return fmt.Sprintf("%s AS (\n\tUPDATE %s AS endstate_row SET %s FROM %s AS endstate_call WHERE endstate_row.ctid = ANY (ARRAY(SELECT %s FROM %s)) AND endstate_row.ctid = endstate_call.%s AND %s AND %s RETURNING endstate_call.*, endstate_row.%s::text COLLATE \"C\" AS %s)",
		name, p.table(), set, from, tid(hold), from, tid(hold), p.whereMany(b, "endstate_call"), p.Terminal.open("endstate_row."+p.column()), p.column(), stateColumn(name))
}

// stateColumn is the column in which the SettleMany of this name returns what a row says.
func stateColumn(settle string) string { return settle + "_state" }

func (p statusPlan) Kept(b *sqlplan.Bulk, name string) string {
	return fmt.Sprintf("NOT EXISTS (SELECT FROM %s WHERE %s IS DISTINCT FROM %s)", name, stateColumn(name), b.State())
}
