// Package sqlplan lets finalize join the SQL of a guard and of an outbox into one statement, or send it in one trip, while
// the two know nothing of each other. PostgreSQL only: SQLite has no data-modifying WITH.
//
// A plan's text is built once and its arguments are taken from each Call, so that a finalization builds no SQL.
package sqlplan

import (
	"strconv"
	"time"
)

// Call is what the arguments of one finalization are taken from.
type Call struct {
	Aggregate string
	Key       string // the key's canonical encoding
	Parts     []any  // the key's parts, each as its SQL type wants it
	State     string
	Trigger   string
	Token     string
	Digest    []byte
	Events    []any // the outbox's arguments, in its own order
}

// Arg takes one argument from a call.
type Arg func(*Call) any

// Args collects a statement's arguments while its text is written.
type Args struct{ list []Arg }

// Add adds an argument and returns its placeholder.
func (a *Args) Add(arg Arg) string {
	a.list = append(a.list, arg)
	return "$" + strconv.Itoa(len(a.list))
}

// Statement is a finished text with its arguments.
type Statement struct {
	SQL  string
	args []Arg
}

// Build writes a statement.
func Build(write func(*Args) string) Statement {
	var a Args
	sql := write(&a)
	return Statement{sql, a.list}
}

// Args evaluates the statement's arguments for c.
func (s Statement) Args(c *Call) []any {
	values := make([]any, len(s.args))
	for i, arg := range s.args {
		values[i] = arg(c)
	}
	return values
}

// Columns are those of every row in which a guard tells what it knows; Row scans them.
const Columns = "final, state, trigger, token, at, digest, xid"

// Row is what a guard tells of an aggregate. No row means that the guard has no record of it.
type Row struct {
	Final   bool
	State   *string
	Trigger *string
	Token   *string
	At      *time.Time
	Digest  []byte
	XID     *string // set when the row was claimed by this statement: the transaction's id
}

// Dest are the scan destinations for Columns.
func (r *Row) Dest() []any {
	return []any{&r.Final, &r.State, &r.Trigger, &r.Token, &r.At, &r.Digest, &r.XID}
}

// Guard is a guard's work as SQL, for keys of one shape.
type Guard interface {
	// Parts is how many guards this is made of: one row of Columns each, in order.
	Parts() int
	// Absent is the error when a part has no row; nil where no row means open.
	Absent(part int) error
	// Claim returns, for each part, the statements that lock it when it is open. The last of a part's statements returns
	// its row. They are sent in one trip inside an open transaction.
	Claim(part int) []func(*Args) string
	// Read returns a SELECT of a part's row that locks and writes nothing.
	Read(part int) func(*Args) string
	// Settle returns the WITH clauses of a part ("name AS (…)"), the last of which returns one row with the columns
	// (at) if it moved the aggregate to its terminal state, and none otherwise. They must write only if the clause named
	// prev, unless it is empty, has a row, and if the condition and, unless it is empty, holds.
	Settle(part int, a *Args, name, prev, and string) string
	// Open returns a condition that holds while the part is open, for the other parts' Settle.
	Open(part int, a *Args) string
}
