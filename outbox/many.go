package outbox

import (
	"fmt"
	"iter"
	"strings"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// ClauseMany returns a WITH clause, for finalize to join with a guard's, that inserts the events of those calls whose endstate_n the
// clause named prev has. Its arguments are what ColumnsMany returns, and are the statement's first. A taken dedup key or id is
// an error there.
func (w inserts) ClauseMany(name, prev string) string {
	arrays := make([]string, len(columnTypes))
	for i := range arrays {
		arrays[i] = fmt.Sprintf("$%d::%s[]", i+1, sent(columnTypes[i]))
	}
	owners := fmt.Sprintf("$%d::int4[]", len(columnTypes)+1)
	columns := strings.TrimSuffix(insertColumns, ")")
	// In the arrays' order, so that seq follows it. IS TRUE keeps the look into prev a hashed one: a join of two relations
	// whose sizes can't be known could be planned as a nested loop.
	return fmt.Sprintf("%s AS (\n\t%s)", name, w.insertInto(fmt.Sprintf(`
	SELECT %s FROM unnest(%s) WITH ORDINALITY AS endstate_event %s, owner, place) WHERE (endstate_event.owner IN (SELECT endstate_n FROM %s)) IS TRUE ORDER BY endstate_event.place`,
		received(arrays), strings.Join(append(arrays, owners), ", "), columns, prev)))
}

// ColumnsMany are the arguments of ClauseMany for the events of several calls.
func (w inserts) ColumnsMany(calls [][]Event) []any {
	var events []Event
	var owners []int32
	for n, its := range calls {
		events = append(events, its...)
		for range its {
			owners = append(owners, int32(n))
		}
	}
	return append(columns(events), owners)
}

// ColumnCount is how many arguments ColumnsMany returns.
func (w inserts) ColumnCount() int { return len(columnTypes) + 1 }

// Inserts returns the statements that write prepared events and fail if a dedup key or id is taken, with an error for which
// Taken is true; on PostgreSQL such an error aborts the transaction. finalize sends them: a winner without its events must
// not commit.
func (w inserts) Inserts(d sqltx.Dialect, prepared []Event) iter.Seq2[string, []any] {
	return func(yield func(string, []any) bool) {
		for chunk := range chunks(prepared) {
			if !yield(w.values(d, chunk)) {
				return
			}
		}
	}
}
