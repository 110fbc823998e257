// Package sqlplan lets finalize join the SQL of a guard and of an outbox into one statement, or send it in one trip, while
// the two know nothing of each other. What is joined is for PostgreSQL only: SQLite has no data-modifying WITH.
//
// A plan's text is built once and its arguments are taken from each Call, so that a finalization builds no SQL.
package sqlplan

import "github.com/jackc/pgx/v5/pgtype"

// Row is what a guard's table says of an aggregate. Its types are those that pgx scans into without looking for a way.
type Row struct {
	State   pgtype.Text // not Valid: there is no row; a NULL in the table is read as the empty state
	Trigger pgtype.Text
	Token   pgtype.Text
	At      pgtype.Timestamptz
	Digest  []byte
}

// Guard is one guard's work as SQL, for keys of one shape.
type Guard interface {
	// Columns are the columns that Source returns, in the order of Dest. The first is the state.
	Columns() []string
	// Dest appends to dest the scan destinations of Columns in row.
	Dest(dest []any, row *Row) []any
	// Final reports whether row is of an aggregate in a terminal state.
	Final(row *Row) bool
	// Absent is the error when there is no row; nil where that means open.
	Absent() error

	// Source returns a SELECT of Columns, of one row or none, that locks and writes nothing.
	Source(a *Args) string
	// Claim returns the statements that hold the aggregate if it is open, to be sent in one trip inside an open
	// transaction. The last returns one row, with the transaction's id as text, if the aggregate is held, and none
	// otherwise. Behind another guard's claim, which holds the aggregate already, it may only look.
	Claim(behind bool) []func(*Args) string
	// Settle returns WITH clauses ("name AS (…)"), the last of which returns one row if it moved the aggregate to a terminal
	// state, and none otherwise. The row has the column endstate_said, which is what the table now says of the aggregate, compared
	// byte by byte; if Columns has at, it has that too. They write only if the condition holds, and, if prev isn't empty, the
	// clause of that name has a row.
	Settle(a *Args, name, prev, condition string) string
	// Open returns a condition that holds while the aggregate is open.
	Open(a *Args) string
	// Table is the table that Settle writes to.
	Table() Table

	// What follows settles many aggregates in one statement, each as its Settle would alone. The clauses work on relations that
	// have Item's columns, a row for each aggregate.

	// SourceMany returns a SELECT of Columns for the row of the relation from, of one row or none, that locks and writes
	// nothing. It goes into a LATERAL, and must be planned for one row at a time.
	SourceMany(b *Bulk, from string) string
	// HoldMany returns WITH clauses, the last of them called name: the rows of the relation from that are open and that it
	// could hold without waiting, in the order of from. Behind another guard's, which holds the aggregates already, it may
	// just look.
	HoldMany(b *Bulk, name, from string, behind bool) string
	// SettleMany returns WITH clauses, the last of them called name: the rows of the relation from that it moved to their terminal
	// states, at the time At. It waits for whoever holds a row that from has unheld.
	SettleMany(b *Bulk, name, from string) string
	// Kept returns a condition on the SettleMany of this name: the table says of each of its rows what was asked for.
	Kept(b *Bulk, name string) string
}
