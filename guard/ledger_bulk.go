package guard

import (
	"fmt"

	"github.com/endstate-go/endstate/internal/sqlplan"
)

func (p ledgerPlan) SourceMany(b *sqlplan.Bulk, from string) string {
	return `SELECT state, "trigger", token::text, at, digest FROM ` + p.where(b.Aggregate(), from+"."+b.Key()) + " LIMIT 1"
}

// HoldMany looks for entries first, one by one through the index (the LIMIT keeps them from being joined, and a ledger that
// was small when that was planned from being scanned), and then tries the locks of the aggregates that have none.
func (p ledgerPlan) HoldMany(b *sqlplan.Bulk, name, from string, behind bool) string {
	open := name
	if !behind {
		open += "_open"
	}
	clauses := fmt.Sprintf(`%s AS MATERIALIZED (
	SELECT %s.* FROM %s LEFT JOIN LATERAL (SELECT true FROM %s LIMIT 1) AS endstate_entry (there) ON true WHERE endstate_entry.there IS NULL)`,
		open, from, from, p.where(b.Aggregate(), from+"."+b.Key()))
	if behind {
		return clauses
	}
	return clauses + fmt.Sprintf(",\n%s AS MATERIALIZED (\n\tSELECT * FROM %s WHERE pg_try_advisory_xact_lock(%s))", name, open, p.lockID(b.Aggregate(), b.Key()))
}

func (p ledgerPlan) SettleMany(b *sqlplan.Bulk, name, from string) string {
	return fmt.Sprintf(`%[1]s_entry AS (
	INSERT INTO %[2]s (aggregate, "key", state, "trigger", token, digest, at) SELECT %[3]s, %[4]s, %[5]s, %[6]s, %[7]s, %[8]s, %[9]s FROM %[10]s
	ON CONFLICT (aggregate, "key") DO NOTHING RETURNING "key", state COLLATE "C" AS endstate_said),
%[1]s AS MATERIALIZED (
	SELECT * FROM %[10]s WHERE ((%[4]s, %[5]s) IN (SELECT "key", endstate_said FROM %[1]s_entry)) IS TRUE)`,
		name, p.table(), b.Aggregate(), b.Key(), b.State(), b.Trigger(), b.Token(), b.Digest(), sqlplan.At, from)
}

// Kept compares counts: an entry that says something else belongs to no row.
func (p ledgerPlan) Kept(_ *sqlplan.Bulk, name string) string {
	return fmt.Sprintf("(SELECT count(*) FROM %[1]s_entry) = (SELECT count(*) FROM %[1]s)", name)
}
