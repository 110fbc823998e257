package finalize

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/outbox"
)

// planner is what the library's guards implement to have their SQL joined with the outbox's: found by type assertion, so
// that a guard of the user's own needs only guard.Guard. Plans returns one plan for each guard that is kept together, or
// nil when it can't.
type planner interface {
	Plans(shape string) []sqlplan.Guard
}

// merger is what a guard of several parts implements to make one record of theirs.
type merger interface {
	Merge(guard.Ref, []guard.Record) (guard.Record, error)
}

// joined is the SQL of the guards that are kept together and of one outbox, for keys of one shape. Its statements are
// built once.
type joined struct {
	plans  []sqlplan.Guard
	outbox outbox.Writer
	claim  [][]sqlplan.Statement // by plan; a plan's last statement returns a row if it holds the aggregate
	read   sqlplan.Statement
	finish [outbox.Forms]func() sqlplan.Statement
	settle [outbox.Forms]func() sqlplan.Statement
	ledger int // the index of the plan that keeps provenance, or -1

	bulk   func() *sqlplan.BulkStatement // settles many; nil where a plan can't
	groups groups
}

func newJoined(plans []sqlplan.Guard, w outbox.Writer) *joined {
	j := &joined{plans: plans, outbox: w}
	j.ledger = slices.IndexFunc(plans, func(plan sqlplan.Guard) bool { return slices.Contains(plan.Columns(), "at") })
	j.bulk = sync.OnceValue(j.newBulk)
	for i, plan := range plans {
		var statements []sqlplan.Statement
		for _, write := range plan.Claim(i > 0) {
			statements = append(statements, sqlplan.Build(write))
		}
		j.claim = append(j.claim, statements)
	}
	j.read = sqlplan.Build(func(a *sqlplan.Args) string { return "SELECT " + j.sources(a) })
	for form := range outbox.Form(outbox.Forms) {
		j.finish[form] = sync.OnceValue(func() sqlplan.Statement {
			return sqlplan.Build(func(a *sqlplan.Args) string { return j.mustWin(a, form) })
		})
		j.settle[form] = sync.OnceValue(func() sqlplan.Statement {
			return sqlplan.Build(func(a *sqlplan.Args) string { return j.mayWin(a, form) })
		})
	}
	return j
}

// batch puts the arguments of a's outcome into a, and returns its events'.
func (j *joined) batch(a *attempt) outbox.Batch {
	b := j.outbox.Batch(a.events)
	a.Events = b.Args
	if j.ledger >= 0 {
		a.digest()
	}
	return b
}

// sources is the rest of a SELECT that returns one row with every plan's columns. Where a plan can't do without a row, none
// may come.
func (j *joined) sources(a *sqlplan.Args) string {
	var columns []string
	from := "(VALUES (1)) AS endstate_one (n)"
	for i, plan := range j.plans {
		for _, column := range plan.Columns() {
			columns = append(columns, fmt.Sprintf("endstate_p%d.%s", i, column))
		}
		source := fmt.Sprintf("(%s) AS endstate_p%d", plan.Source(a), i)
		if i == 0 && plan.Absent() != nil {
			from = source
		} else {
			from += " LEFT JOIN " + source + " ON true"
		}
	}
	return strings.Join(columns, ", ") + "\nFROM " + from
}

// clauses are the WITH clauses that settle every guard, and the name of the last one. Each writes only if the one before
// did; the first looks at all of them.
func (j *joined) clauses(a *sqlplan.Args) (with, last string) {
	var clauses, open []string
	for _, plan := range j.plans[1:] {
		open = append(open, plan.Open(a))
	}
	condition := strings.Join(open, " AND ")
	for i, plan := range j.plans {
		clauses = append(clauses, plan.Settle(a, settleName(i), last, condition))
		last, condition = settleName(i), ""
	}
	return "WITH " + strings.Join(clauses, ",\n"), last
}

func settleName(plan int) string { return fmt.Sprintf("endstate_settle%d", plan) }

// settledAt is when the aggregate was settled: the time that the ledger recorded.
func (j *joined) settledAt() string { return fmt.Sprintf("(SELECT at FROM %s)", settleName(j.ledger)) }

// mustWin settles, or raises an error on the server: COMMIT is on its way already when the client could look. A division
// by zero does it. It returns the time of settling, once for each event, if there is a ledger.
func (j *joined) mustWin(a *sqlplan.Args, form outbox.Form) string {
	with, last := j.clauses(a)
	won := fmt.Sprintf("1 / coalesce((SELECT 1 FROM %s), 0) = 1", last)
	at := ""
	if j.ledger >= 0 {
		at = j.settledAt()
	}
	if form == 0 {
		return fmt.Sprintf("%s\nSELECT %s WHERE %s", with, at, won)
	}
	if at != "" {
		at = "\nRETURNING " + at
	}
	return with + "\n" + j.outbox.Insert(a, form, won) + at
}

// mayWin settles, and returns whether it did, the time if there is a ledger, and what its snapshot shows of each guard. A
// settle that moved only some of the guards is an error.
func (j *joined) mayWin(a *sqlplan.Args, form outbox.Form) string {
	with, last := j.clauses(a)
	won := fmt.Sprintf("(SELECT true FROM %s)", last)
	if form != 0 {
		with += fmt.Sprintf(",\nendstate_events AS (\n\t%s)", j.outbox.Insert(a, form, won))
	}
	if first := settleName(0); first != last {
		won = fmt.Sprintf("(SELECT 1 / (SELECT count(*) FROM %s)::int = 1 FROM %s)", last, first)
	}
	if j.ledger >= 0 {
		won += ", " + j.settledAt()
	}
	return with + fmt.Sprintf("\nSELECT %s, %s", won, j.sources(a))
}
