package outbox

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/endstate-go/endstate/internal/sqlplan"
)

// columns are the events' values by column, as arrays for one unnest. Where all events have the same value, as they mostly
// have in half of the columns, it is sent once: see received.
func columns(events []Event) []any {
	n := len(events)
	ids, aggregateTypes, aggregateIDs, types := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	payloads, contentTypes, headers := make([][]byte, n), make([]string, n), make([]string, n)
	occurred, dedup, versions, partitions := make([]*time.Time, n), make([]*string, n), make([]int32, n), make([]int16, n)
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
		partitions[i] = e.partition()
	}
	if !slices.ContainsFunc(occurred, func(t *time.Time) bool { return t != nil }) {
		occurred = nil
	}
	return []any{ids, shared(aggregateTypes), aggregateIDs, shared(types), payloads, shared(contentTypes), shared(headers), occurred, dedup, shared(versions), partitions}
}

// shared returns the first of values if all are the same, else values.
func shared[T comparable](values []T) []T {
	for _, v := range values {
		if v != values[0] {
			return values
		}
	}
	return values[:min(1, len(values))]
}

// bulk is an insert of any number of events, with the arguments of columns. An unnest gives its rows in the arrays' order,
// so seq follows it.
func (w Writer) bulk(param func(column int) string, where string) string {
	arrays := make([]string, len(columnTypes))
	for i, t := range columnTypes {
		arrays[i] = param(i) + "::" + sent(t) + "[]"
	}
	return w.insertInto(fmt.Sprintf("\nSELECT %s\nFROM unnest(%s) AS endstate_event %s%s", received(arrays), strings.Join(arrays, ", "), insertColumns, where))
}

// sent is the type as which values of an array are sent: text where a driver that isn't told the types couldn't.
func sent(t string) string {
	if t == "uuid" || t == "jsonb" {
		return "text"
	}
	return t
}

// received are insertColumns of the arrays' relation, endstate_event. In what all events share, an unnest gives NULL from the second row on.
func received(arrays []string) string {
	same := func(name string, i int) string {
		return fmt.Sprintf("coalesce(endstate_event.%s, (%s)[1])", name, arrays[i])
	}
	return strings.Join([]string{"endstate_event.id::uuid", same("aggregate_type", 1), "endstate_event.aggregate_id", same("type", 3), "endstate_event.payload", same("content_type", 5),
		same("headers", 6) + "::jsonb", "coalesce(endstate_event.occurred_at, clock_timestamp())", "endstate_event.dedup_key", same("schema_version", 9), "endstate_event.partition"}, ", ")
}

// inserts is a Writer's SQL for finalize, which joins it with a guard's.
type inserts struct{ Writer }

func init() { sqlplan.Events = func(w any) any { return inserts{w.(Writer)} } }

// usual reports whether an event has what most have: JSON in its first version, no headers, and no time of its own. That is
// spelled out in the statement, since an argument costs more than a constant, on both sides.
func (e *Event) usual() bool {
	return e.ContentType == jsonType && len(e.Headers)+len(e.carried) == 0 && e.OccurredAt.IsZero() && e.SchemaVersion == 1
}

var usualConstants = map[int]string{5: "'" + jsonType + "'", 6: "'{}'::jsonb", 7: "clock_timestamp()", 9: "1"} // by column

// Batch returns the arguments of prepared events.
func (w inserts) Batch(events []Event) sqlplan.Batch {
	if len(events) > sqlplan.FewEvents {
		return sqlplan.Batch{Form: sqlplan.Many, Args: columns(events)}
	}
	usual := true
	for i := range events {
		usual = usual && events[i].usual()
	}
	b := sqlplan.Batch{Form: sqlplan.Form(len(events)), Args: make([]any, 0, len(events)*len(columnTypes))}
	if !usual {
		b.Form += sqlplan.FewEvents
	}
	for i := range events {
		e := &events[i]
		if usual {
			b.Args = append(b.Args, e.ID.String(), e.AggregateType, e.AggregateID, e.Type, e.Payload, e.dedupKey(), e.partition())
			continue
		}
		row := e.row()
		b.Args = append(b.Args, row[:]...)
	}
	return b
}

// Insert returns an INSERT of events for finalize to join with a guard's statement; its arguments are those of a Batch of
// this form. The events go in if the condition holds. A taken dedup key or id is an error there.
func (w inserts) Insert(a *sqlplan.Args, form sqlplan.Form, condition string) string {
	next := 0
	param := func(int) string {
		i := next
		next++
		return a.Add(func(c *sqlplan.Call) any { return c.Events[i] })
	}
	if form == sqlplan.Many {
		return w.bulk(param, " WHERE "+condition)
	}
	rows := make([]string, form.Events())
	for i := range rows {
		values := make([]string, len(columnTypes))
		for j, t := range columnTypes {
			if constant, ok := usualConstants[j]; ok && form.Usual() {
				values[j] = constant
				continue
			}
			values[j] = param(j) + "::" + t
			if j == occurredAt {
				values[j] = "coalesce(" + values[j] + ", clock_timestamp())"
			}
		}
		rows[i] = fmt.Sprintf("SELECT %s WHERE %s", strings.Join(values, ", "), condition)
	}
	return w.insertInto(strings.Join(rows, " UNION ALL "))
}
