package finalize

import (
	"iter"

	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// eventsSQL is an outbox's SQL, which package outbox lends to this one.
type eventsSQL interface {
	// Batch returns the arguments of prepared events.
	Batch([]outbox.Event) sqlplan.Batch
	// Insert returns an INSERT of events, whose arguments are those of a Batch of this form. They go in if the condition
	// holds. A taken dedup key or id is an error there.
	Insert(a *sqlplan.Args, form sqlplan.Form, condition string) string
	// ClauseMany returns a WITH clause that inserts the events of those calls whose endstate_n the clause prev has.
	ClauseMany(name, prev string) string
	// ColumnsMany are ClauseMany's arguments, ColumnCount in number.
	ColumnsMany(calls [][]outbox.Event) []any
	ColumnCount() int
	// Inserts returns the statements that write prepared events, and fail if a dedup key or id is taken.
	Inserts(d sqltx.Dialect, prepared []outbox.Event) iter.Seq2[string, []any]
}

func sqlOf(w outbox.Writer) eventsSQL { return sqlplan.Events(w).(eventsSQL) }
