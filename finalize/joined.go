package finalize

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// guards are what guard.All returns.
type guards interface {
	// Open puts the key into a call, and returns it as people know it; or it says why the key can't be used.
	Open(*sqlplan.Call, guard.Key) (shown string, err error)
	// CheckTarget says why an aggregate can't be moved to a state.
	CheckTarget(guard.Ref, guard.Transition) error
	// KeepDigests reports whether a guard keeps the outcome's digest, or may.
	KeepDigests() bool
	// Plans returns each guard's SQL for keys of one shape, or nil if one has none.
	Plans(shape string) []sqlplan.Guard
	// Record makes one record of what the plans' tables say.
	Record(guard.Ref, []sqlplan.Guard, []sqlplan.Row) (guard.Record, error)
}

// joined is the SQL of the guards that are kept together and of one outbox, for keys of one shape. Its statements are
// built once.
type joined struct {
	plans  []sqlplan.Guard
	outbox sqlplan.Outbox
	claim  [][]sqlplan.Statement // by plan; a plan's last statement returns a row if it holds the aggregate
	read   sqlplan.Statement
	again  sqlplan.Statement // after a settle whose rows triggers may change
	finish [sqlplan.Forms]func() sqlplan.Statement
	settle [sqlplan.Forms]func() sqlplan.Statement
	ledger int // the index of the plan that keeps provenance, or -1

	bulk   bulk
	groups groups
}

func newJoined(plans []sqlplan.Guard, w outbox.Writer) *joined {
	j := &joined{plans: plans, outbox: outboxSQL(w)}
	j.ledger = slices.IndexFunc(plans, func(plan sqlplan.Guard) bool { return slices.Contains(plan.Columns(), "at") })
	j.bulk = j.newBulk()
	for i, plan := range plans {
		var statements []sqlplan.Statement
		for _, write := range plan.Claim(i > 0) {
			statements = append(statements, sqlplan.Build(write))
		}
		j.claim = append(j.claim, statements)
	}
	j.read = sqlplan.Build(func(a *sqlplan.Args) string { return "SELECT " + j.sources(a) })
	j.again = sqlplan.Build(j.stillWon)
	for form := range sqlplan.Form(sqlplan.Forms) {
		j.finish[form] = sync.OnceValue(func() sqlplan.Statement {
			return sqlplan.Build(func(a *sqlplan.Args) string { return j.mustWin(a, form) })
		})
		j.settle[form] = sync.OnceValue(func() sqlplan.Statement {
			return sqlplan.Build(func(a *sqlplan.Args) string { return j.mayWin(a, form) })
		})
	}
	return j
}

// tables are those that a finalization writes to, in its order.
func tables(plans []sqlplan.Guard, w outbox.Writer) []sqlplan.Table {
	var list []sqlplan.Table
	for _, plan := range plans {
		list = append(list, plan.Table())
	}
	return append(list, sqlplan.Table{Schema: w.Schema, Name: w.Name(), Insert: true})
}

// outboxSQL writes the statements that insert into w's table.
func outboxSQL(w outbox.Writer) sqlplan.Outbox {
	return sqlplan.Outbox{Table: sqltx.Quote(w.Schema, w.Name()), Columns: (*sqlplan.Columns)(w.Columns)}
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

// clauses are the WITH clauses that settle every guard. Each writes only if the one before did; the first looks at all of them.
func (j *joined) clauses(a *sqlplan.Args) string {
	var clauses, open []string
	last := ""
	for _, plan := range j.plans[1:] {
		open = append(open, plan.Open(a))
	}
	condition := strings.Join(open, " AND ")
	for i, plan := range j.plans {
		clauses = append(clauses, plan.Settle(a, settleName(i), last, condition))
		last, condition = settleName(i), ""
	}
	return "WITH " + strings.Join(clauses, ",\n")
}

func settleName(plan int) string { return fmt.Sprintf("endstate_settle%d", plan) }

// The notes behind a signal; see verdict.go.

func signal(a *sqlplan.Args) string { return sqltx.SignalOf(a.Token()) }

// write settles every guard and inserts the events, in a statement that only writes: that is fastest, and its command tag says
// whether anything was written. If the first guard moved nothing, nothing is, unless otherwise raises something. What is
// written otherwise than it was asked for raises the attempt's signal. The time of settling is returned if there is a ledger.
func (j *joined) write(a *sqlplan.Args, form sqlplan.Form, otherwise func() string) string {
	var cases strings.Builder
	var same []string
	with, from := j.clauses(a), ""
	for i := range j.plans {
		name := settleName(i)
		if from += name; i > 0 {
			from += " ON true"
			fmt.Fprintf(&cases, "WHEN NOT EXISTS (SELECT FROM %s) THEN %s || '_%s' ", name, signal(a), notePart)
		}
		if i < len(j.plans)-1 {
			from += " LEFT JOIN "
		}
		said := name + ".endstate_said"
		same = append(same, said+" = "+a.State())
		fmt.Fprintf(&cases, "WHEN %s IS DISTINCT FROM %s THEN %s || '_%s_' || coalesce(%s, '') ", said, a.State(), signal(a), noteState, sqltx.Note(said))
	}
	right := fmt.Sprintf("CASE WHEN %s THEN true ELSE %s END", strings.Join(same, " AND "), sqltx.Unless(fmt.Sprintf("CASE %sELSE 'true' END", cases.String())))
	if form.Rows() != 1 || otherwise != nil || j.outbox.Columns != nil {
		// Looked at once, before an event goes in. Two rows of one key, which isn't unique then, are an error; one event of theirs in a
		// table of the library's is one by its id.
		right, from = fmt.Sprintf("(SELECT %s FROM %s)", right, from), ""
	}
	if otherwise != nil {
		right = fmt.Sprintf("CASE WHEN %s THEN true ELSE %s END", right, otherwise())
	}
	at := ""
	if j.ledger >= 0 {
		at = fmt.Sprintf("(SELECT at FROM %s)", settleName(j.ledger))
	}
	if form == 0 {
		return fmt.Sprintf("%s\nSELECT %s WHERE %s", with, at, right)
	}
	insert := j.outbox.Insert(a, form, from, right)
	if at != "" {
		insert += "\nRETURNING " + at
	}
	return with + "\n" + insert
}

// mayWin settles if the aggregate is open.
func (j *joined) mayWin(a *sqlplan.Args, form sqlplan.Form) string { return j.write(a, form, nil) }

// mustWin settles, or raises the attempt's signal on the server: COMMIT is on its way already when the client could look. What is
// in the way, such as a state that the callback has set, is seen by this statement alone.
func (j *joined) mustWin(a *sqlplan.Args, form sqlplan.Form) string {
	return j.write(a, form, func() string {
		shown := fmt.Sprintf("%s || '_%s'", signal(a), noteUnmoved)
		for _, plan := range j.plans {
			shown += fmt.Sprintf(" || '_' || coalesce((SELECT 'x' || %s FROM (%s) AS endstate_row), '')", sqltx.Note("endstate_row."+plan.Columns()[0]), plan.Source(a))
		}
		return sqltx.Unless(shown)
	})
}

// stillWon looks at what the attempt has settled once more, and raises its signal if that says something else by now.
func (j *joined) stillWon(a *sqlplan.Args) string {
	var cases strings.Builder
	for i, plan := range j.plans {
		state := fmt.Sprintf("endstate_p%d.%s", i, plan.Columns()[0])
		fmt.Fprintf(&cases, "WHEN %[1]s COLLATE \"C\" IS DISTINCT FROM %[2]s THEN %[3]s || '_%[4]s_' || coalesce(%[5]s, '') ",
			state, a.State(), signal(a), noteState, sqltx.Note(state))
	}
	if j.ledger >= 0 {
		fmt.Fprintf(&cases, "WHEN endstate_p%d.token IS DISTINCT FROM %s::text THEN %s || '_%s' ", j.ledger, a.Token(), signal(a), notePart)
	}
	_, sources, _ := strings.Cut(j.sources(a), "\nFROM ")
	return "SELECT " + sqltx.Unless(fmt.Sprintf("coalesce((SELECT CASE %sELSE 'true' END FROM %s), %s || '_%s_')", cases.String(), sources, signal(a), noteState))
}
