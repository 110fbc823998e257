package finalize

import (
	"fmt"
	"strings"
	"sync"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/outbox"
)

// planner is what the library's guards implement to have their SQL joined with the outbox's: found by type assertion, so
// that a guard of the user's own needs only guard.Guard. Plan returns nil when it can't.
type planner interface {
	Plan(shape string) sqlplan.Guard
}

// merger is what a guard of several parts implements to make one record of theirs.
type merger interface {
	Merge(guard.Ref, []guard.Record) (guard.Record, error)
}

// joined is the SQL of one guard and one outbox for keys of one shape. Its statements are built once.
type joined struct {
	plan   sqlplan.Guard
	outbox outbox.Writer
	claim  [][]sqlplan.Statement // by part; a part's last statement returns its row
	read   sqlplan.Statement     // one row for each part that has one
	finish [kinds]func() sqlplan.Statement
	settle [kinds]func() sqlplan.Statement
}

// kinds is how many statements there are for different numbers of events: none, one to outbox.FewEvents, and more.
const kinds = outbox.FewEvents + 2

func newJoined(plan sqlplan.Guard, w outbox.Writer) *joined {
	j := &joined{plan: plan, outbox: w}
	for part := range plan.Parts() {
		var statements []sqlplan.Statement
		for _, write := range plan.Claim(part) {
			statements = append(statements, sqlplan.Build(write))
		}
		j.claim = append(j.claim, statements)
	}
	j.read = sqlplan.Build(func(a *sqlplan.Args) string { return j.reads(a, "") })
	for kind := range kinds {
		j.finish[kind] = sync.OnceValue(func() sqlplan.Statement {
			return sqlplan.Build(func(a *sqlplan.Args) string { return j.write(a, kind, true) })
		})
		j.settle[kind] = sync.OnceValue(func() sqlplan.Statement {
			return sqlplan.Build(func(a *sqlplan.Args) string { return j.write(a, kind, false) })
		})
	}
	return j
}

// wonPart is the part number of the row that says that the statement settled the aggregate.
const wonPart = -1

// reads is a SELECT of one row (part, Columns, whole) for each part that has one.
func (j *joined) reads(a *sqlplan.Args, where string) string {
	selects := make([]string, j.plan.Parts())
	for part := range selects {
		selects[part] = fmt.Sprintf("SELECT %d AS part, r.*, 1 AS whole FROM (%s) AS r%s", part, j.plan.Read(part)(a), where)
	}
	return strings.Join(selects, "\nUNION ALL ")
}

// write is the statement that settles every part and writes the events, all or nothing. It returns the row wonPart. If must,
// anything else is an error, raised on the server: COMMIT is on its way already when the client could look. Otherwise,
// where nothing was settled, it returns what each part knows, as far as the statement's snapshot shows it.
func (j *joined) write(a *sqlplan.Args, kind int, must bool) string {
	var clauses, at []string
	prev := ""
	for part := range j.plan.Parts() {
		name := fmt.Sprintf("settle%d", part)
		clauses = append(clauses, j.plan.Settle(part, a, name, prev, ""))
		at = append(at, "(SELECT at FROM "+name+")")
		prev = name
	}
	if kind > 0 {
		clauses = append(clauses, j.outbox.Clause(a, kind, "events", prev))
	}
	winner := fmt.Sprintf("SELECT %d AS part, true AS final, NULL::text AS state, NULL::text AS trigger, NULL::text AS token, coalesce(%s, NULL::timestamptz) AS at, NULL::bytea AS digest, NULL::text AS xid",
		wonPart, strings.Join(at, ", "))
	// A division by zero refuses a settle that moved only some of the parts, or none though it must.
	whole := fmt.Sprintf(", 1 / (SELECT count(*) FROM %s)::int AS whole", prev)
	with := "WITH " + strings.Join(clauses, ",\n")
	if must {
		return with + "\n" + winner + whole
	}
	if j.plan.Parts() == 1 {
		whole = ", 1 AS whole"
	}
	return with + "\n" + winner + whole + " FROM settle0\nUNION ALL " +
		j.reads(a, " WHERE NOT EXISTS (SELECT FROM settle0)")
}
