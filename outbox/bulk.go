package outbox

import (
	"fmt"
	"strings"
	"time"

	"github.com/endstate-go/endstate/internal/sqlplan"
)

// columns are the events' values by column, as arrays for one unnest.
func columns(events []Event) []any {
	n := len(events)
	ids, aggregateTypes, aggregateIDs, types := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	payloads, contentTypes, headers := make([][]byte, n), make([]string, n), make([]string, n)
	occurred, dedup, versions, shards := make([]*time.Time, n), make([]*string, n), make([]int32, n), make([]int16, n)
	for i := range events {
		e := &events[i]
		ids[i], aggregateTypes[i], aggregateIDs[i], types[i] = e.ID.String(), e.AggregateType, e.AggregateID, e.Type
		payloads[i], contentTypes[i], headers[i] = e.Payload, e.ContentType, e.headers()
		if !e.OccurredAt.IsZero() {
			occurred[i] = &e.OccurredAt
		}
		if e.DedupKey != "" {
			dedup[i] = &e.DedupKey
		}
		versions[i] = int32(e.SchemaVersion)
		shards[i] = int16(Shard(e.AggregateType, e.AggregateID))
	}
	return []any{ids, aggregateTypes, aggregateIDs, types, payloads, contentTypes, headers, occurred, dedup, versions, shards}
}

// bulk is an insert of any number of events, with the arguments of columns. An unnest gives its rows in the arrays' order,
// so seq follows it.
func (w Writer) bulk(param func(column int) string, where string) string {
	arrays := make([]string, len(columnTypes))
	for i, t := range columnTypes {
		if t == "uuid" || t == "jsonb" {
			t = "text" // cast below, so that a driver that isn't told the types can send them
		}
		arrays[i] = param(i) + "::" + t + "[]"
	}
	return fmt.Sprintf(`INSERT INTO %s %s
SELECT e.id::uuid, e.aggregate_type, e.aggregate_id, e.type, e.payload, e.content_type, e.headers::jsonb, coalesce(e.occurred_at, clock_timestamp()), e.dedup_key, e.schema_version, e.shard
FROM unnest(%s) AS e%s%s`, w.table(), insertColumns, strings.Join(arrays, ", "), insertColumns, where)
}

// Clause returns a WITH clause that inserts events if the clause named prev has a row, for finalize to join with a guard's;
// its arguments are those that Columns returns for the same number of events. A taken dedup key or id is an error there.
func (w Writer) Clause(a *sqlplan.Args, n int, name, prev string) string {
	column := func(i int) sqlplan.Arg { return func(c *sqlplan.Call) any { return c.Events[i] } }
	if n > FewEvents {
		insert := w.bulk(func(i int) string { return a.Add(column(i)) }, " WHERE EXISTS (SELECT FROM "+prev+")")
		return fmt.Sprintf("%s AS (\n\t%s)", name, insert)
	}
	rows := make([]string, n)
	for i := range rows {
		values := make([]string, len(columnTypes))
		for j, t := range columnTypes {
			values[j] = a.Add(column(i*len(columnTypes)+j)) + "::" + t
			if j == occurredAt {
				values[j] = "coalesce(" + values[j] + ", clock_timestamp())"
			}
		}
		rows[i] = fmt.Sprintf("SELECT %s FROM %s", strings.Join(values, ", "), prev)
	}
	return fmt.Sprintf("%s AS (\n\tINSERT INTO %s %s %s)", name, w.table(), insertColumns, strings.Join(rows, " UNION ALL "))
}

// FewEvents events or fewer are passed as scalars, which the server takes faster than ten arrays. The number also bounds
// how many different statements a connection keeps prepared.
const FewEvents = 4

// Columns are the arguments of Clause.
func (w Writer) Columns(events []Event) []any {
	if len(events) > FewEvents {
		return columns(events)
	}
	args := make([]any, 0, len(events)*len(columnTypes))
	for i := range events {
		row := events[i].row()
		args = append(args, row[:]...)
	}
	return args
}

// ClauseKind is the n to build Clause with for a number of events: statements for equal kinds are the same.
func ClauseKind(events int) int { return min(events, FewEvents+1) }
