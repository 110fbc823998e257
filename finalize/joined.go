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

// kinds is how many statements there are for different numbers of events: none, one to outbox.FewEvents, and more.
const kinds = outbox.FewEvents + 2

// joined is the SQL of the guards that are kept together and of one outbox, for keys of one shape. Its statements are
// built once.
type joined struct {
	plans  []sqlplan.Guard
	outbox outbox.Writer
	claim  [][]sqlplan.Statement // by plan; a plan's last statement returns its row
	read   sqlplan.Statement
	finish [kinds]func() sqlplan.Statement
	settle [kinds]func() sqlplan.Statement
}

func newJoined(plans []sqlplan.Guard, w outbox.Writer) *joined {
	j := &joined{plans: plans, outbox: w}
	for i, plan := range plans {
		var statements []sqlplan.Statement
		for _, write := range plan.Claim(i > 0) {
			statements = append(statements, sqlplan.Build(write))
		}
		j.claim = append(j.claim, statements)
	}
	j.read = sqlplan.Build(func(a *sqlplan.Args) string { return "SELECT NULL::boolean, NULL::timestamptz, " + j.sources(a) })
	for kind := range kinds {
		j.finish[kind] = sync.OnceValue(func() sqlplan.Statement {
			return sqlplan.Build(func(a *sqlplan.Args) string { return j.mustWin(a, kind) })
		})
		j.settle[kind] = sync.OnceValue(func() sqlplan.Statement {
			return sqlplan.Build(func(a *sqlplan.Args) string { return j.mayWin(a, kind) })
		})
	}
	return j
}

// sources is the rest of a SELECT that returns one row with every plan's columns. Where a plan can't do without a row, none
// may come.
func (j *joined) sources(a *sqlplan.Args) string {
	var columns []string
	from := "(VALUES (1)) AS one (n)"
	for i, plan := range j.plans {
		for _, column := range plan.Columns() {
			columns = append(columns, fmt.Sprintf("p%d.%s", i, column))
		}
		source := fmt.Sprintf("(%s) AS p%d", plan.Source(a), i)
		if i == 0 && plan.Absent() != nil {
			from = source
		} else {
			from += " LEFT JOIN " + source + " ON true"
		}
	}
	return strings.Join(columns, ", ") + "\nFROM " + from
}

// clauses are the WITH clauses that settle every guard and write the events, and the names of the first and the last
// guard's. Each writes only if the one before did; the first looks at all of them.
func (j *joined) clauses(a *sqlplan.Args, kind int) (with, first, last string) {
	var clauses, open []string
	for _, plan := range j.plans[1:] {
		open = append(open, plan.Open(a))
	}
	condition := strings.Join(open, " AND ")
	for i, plan := range j.plans {
		name := fmt.Sprintf("settle%d", i)
		clauses = append(clauses, plan.Settle(a, name, last, condition))
		last, condition = name, ""
	}
	if kind > 0 {
		clauses = append(clauses, j.outbox.Clause(a, kind, "events", last))
	}
	return "WITH " + strings.Join(clauses, ",\n") + "\n", "settle0", last
}

// settledAt is when the aggregate was settled: the time that one of the guards recorded.
func (j *joined) settledAt() string {
	for i, plan := range j.plans {
		if slices.Contains(plan.Columns(), "at") {
			return fmt.Sprintf("(SELECT at FROM settle%d)", i)
		}
	}
	return "NULL::timestamptz"
}

// mustWin settles, or raises an error on the server: COMMIT is on its way already when the client could look. A division
// by zero does it.
func (j *joined) mustWin(a *sqlplan.Args, kind int) string {
	with, _, last := j.clauses(a, kind)
	return with + fmt.Sprintf("SELECT 1 / count(*)::int = 1, %s FROM %s", j.settledAt(), last)
}

// mayWin settles, and returns what its snapshot shows of each guard. A settle that moved only some of the guards is an
// error.
func (j *joined) mayWin(a *sqlplan.Args, kind int) string {
	with, first, last := j.clauses(a, kind)
	won := fmt.Sprintf("(SELECT true FROM %s)", first)
	if first != last {
		won = fmt.Sprintf("(SELECT 1 / (SELECT count(*) FROM %s)::int = 1 FROM %s)", last, first)
	}
	return with + fmt.Sprintf("SELECT %s, %s, %s", won, j.settledAt(), j.sources(a))
}
