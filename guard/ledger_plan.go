package guard

import (
	"fmt"

	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// ledgerPlan is a Ledger as SQL.
type ledgerPlan struct{ Ledger }

var _ sqlplan.Guard = ledgerPlan{}

func (p ledgerPlan) Columns() []string {
	return []string{"state", "trigger", "token", "at", "digest"}
}

func (p ledgerPlan) Dest(dest []any, row *sqlplan.Row) []any {
	return append(dest, &row.State, &row.Trigger, &row.Token, &row.At, &row.Digest)
}

func (p ledgerPlan) Final(row *sqlplan.Row) bool { return row.State.Valid }

func (p ledgerPlan) Absent() error { return nil }

func ledgerKey(a *sqlplan.Args) (aggregate, key string) { return a.Aggregate(), a.Key() }

func (p ledgerPlan) where(aggregate, key string) string {
	return fmt.Sprintf(`%s WHERE aggregate = %s AND "key" = %s`, p.table(), aggregate, key)
}

func (p ledgerPlan) Source(a *sqlplan.Args) string {
	return `SELECT state, "trigger", token::text, at, digest FROM ` + p.where(ledgerKey(a))
}

// ledgerSeed keeps our advisory locks apart from those of others who hash the same text. The table's oid, added to it, keeps
// two ledgers of one database apart.
const ledgerSeed = 0x656e6473 // "ends"

// lockID is the advisory lock of an aggregate. A 64-bit hash may collide; two aggregates then wait for each other, and nothing
// worse.
func (p ledgerPlan) lockID(aggregate, key string) string {
	return fmt.Sprintf("hashtextextended(%s || '/' || %s, %d + %s::regclass::oid::int8)", aggregate, key, ledgerSeed, sqltx.Literal(p.table()))
}

// lock takes the lock of an open aggregate. It is not taken once there is an entry: a loser waits for nobody.
func (p ledgerPlan) lock(aggregate, key string) string {
	return fmt.Sprintf("SELECT pg_advisory_xact_lock(%s) WHERE NOT EXISTS (SELECT FROM %s)", p.lockID(aggregate, key), p.where(aggregate, key))
}

// Claim locks in one statement and looks in the next, whose snapshot is taken after the wait.
func (p ledgerPlan) Claim(behind bool) []func(*sqlplan.Args) string {
	lock := func(a *sqlplan.Args) string { return p.lock(ledgerKey(a)) }
	look := func(a *sqlplan.Args) string { return "SELECT pg_current_xact_id()::text WHERE " + p.Open(a) }
	if behind {
		return []func(*sqlplan.Args) string{look}
	}
	return []func(*sqlplan.Args) string{lock, look}
}

// Settle takes the lock too, so that it waits for a Do whose callback is at work. The insert itself decides.
func (p ledgerPlan) Settle(a *sqlplan.Args, name, prev, condition string) string {
	aggregate, key := ledgerKey(a)
	values := fmt.Sprintf("SELECT %s, %s, %s, %s::text, %s, %s::bytea, clock_timestamp()", aggregate, key, a.State(),
		a.Add(func(c *sqlplan.Call) any { return (*sqlplan.Text)(&c.Trigger) }), a.Token(),
		a.Add(func(c *sqlplan.Call) any { return (*sqlplan.Bytes)(&c.Digest) }))
	clauses := ""
	if prev == "" {
		prev = name + "_lock"
		clauses = fmt.Sprintf("%s AS MATERIALIZED (\n\t%s),\n", prev, p.lock(aggregate, key))
	}
	where := ""
	if condition != "" {
		where = " WHERE " + condition
	}
	return clauses + fmt.Sprintf(`%s AS (
	INSERT INTO %s (aggregate, "key", state, "trigger", token, digest, at) %s FROM %s%s
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = %s AND "key" = %s AND token = %s THEN state COLLATE "C" END AS endstate_said)`,
		name, p.table(), values, prev, where, aggregate, key, a.Token())
}

func (p ledgerPlan) Table() sqlplan.Table {
	return sqlplan.Table{Schema: p.Schema, Name: p.plain(), Insert: true}
}

func (p ledgerPlan) Open(a *sqlplan.Args) string {
	return fmt.Sprintf("NOT EXISTS (SELECT FROM %s)", p.where(ledgerKey(a)))
}
