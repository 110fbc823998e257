package sqlplan

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// Outbox is the table of an outbox.Writer, into which events are inserted.
type Outbox struct {
	Table   string   // quoted, with its schema
	Columns *Columns // nil: the library's own table
}

// Columns are an outbox.Columns. The two have the same fields, so that one converts into the other.
type Columns struct {
	ID             string
	AggregateType  string
	AggregateID    string
	Type           string
	Payload        string
	ContentType    string
	Headers        string
	OccurredAt     string
	DedupKey       string
	SchemaVersion  string
	PayloadType    string
	OccurredAtType string
	Set            map[string]string
}

// Field is a field of an event: the column in the library's own table, and that in a service's.
type Field struct{ Own, Theirs string }

// Fields are those that are mapped.
func (c *Columns) Fields() []Field {
	all := []Field{{"id", c.ID}, {"aggregate_type", c.AggregateType}, {"aggregate_id", c.AggregateID}, {"type", c.Type}, {"payload", c.Payload},
		{"content_type", c.ContentType}, {"headers", c.Headers}, {"occurred_at", c.OccurredAt}, {"dedup_key", c.DedupKey}, {"schema_version", c.SchemaVersion}}
	return slices.DeleteFunc(all, func(f Field) bool { return f.Theirs == "" })
}

// insertInto is an INSERT of a source of rows of InsertColumns.
func (o Outbox) insertInto(source string) string {
	if o.Columns == nil {
		return "INSERT INTO " + o.Table + " " + InsertColumns + " " + source
	}
	var columns, values []string
	for _, f := range o.Columns.Fields() {
		columns = append(columns, sqltx.Quote("", f.Theirs))
		value := "endstate_event." + f.Own
		if f.Own == "occurred_at" && o.Columns.OccurredAtType == "timestamp" {
			value += " AT TIME ZONE 'UTC'"
		}
		if f.Own == "payload" && o.Columns.PayloadType != "" && o.Columns.PayloadType != "bytea" {
			value = fmt.Sprintf("convert_from(%s, 'UTF8')::%s", value, o.Columns.PayloadType)
		}
		values = append(values, value)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Columns.Set)) {
		columns = append(columns, sqltx.Quote("", name))
		values = append(values, sqltx.Literal(o.Columns.Set[name]))
	}
	return fmt.Sprintf("INSERT INTO %s (%s)\nSELECT %s FROM (%s) AS endstate_event %s", o.Table, strings.Join(columns, ", "), strings.Join(values, ", "), source, InsertColumns)
}

// Values inserts one row of scalar arguments for each event, which every driver can send.
func (o Outbox) Values(d sqltx.Dialect, events []Event) (string, []any) {
	var b strings.Builder
	b.Grow(256 * len(events))
	b.WriteString("VALUES ")
	args := make([]any, 0, len(events)*len(columnTypes))
	for i := range events {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		e := &events[i]
		usual := d == sqltx.Postgres && len(events) == 1 && e.usual()
		for j, columnType := range columnTypes {
			if j > 0 {
				b.WriteString(", ")
			}
			if usual && usualConstants[j] != "" {
				b.WriteString(usualConstants[j])
				continue
			}
			v := e.arg(j)
			if t, ok := v.(time.Time); ok && d == sqltx.SQLite {
				v = t.UTC().Format("2006-01-02T15:04:05.000000Z")
			}
			args = append(args, v)
			// Not ?1, ?2, …: a numbered parameter has a name, and drivers look it up in time that grows with their number.
			placeholder := "?"
			if d == sqltx.Postgres {
				placeholder = "$" + strconv.Itoa(len(args)) + "::" + columnType
			}
			if j == occurredAt {
				placeholder = "coalesce(" + placeholder + ", " + d.Clock() + ")"
			}
			b.WriteString(placeholder)
		}
		b.WriteByte(')')
	}
	return o.insertInto(b.String()), args
}

// Inserts returns the statements that write events and fail if a dedup key or id is taken, with an error for which outbox.Taken
// is true; on PostgreSQL such an error aborts the transaction. A winner without its events must not commit.
func (o Outbox) Inserts(d sqltx.Dialect, events []Event) iter.Seq2[string, []any] {
	return func(yield func(string, []any) bool) {
		for chunk := range Chunks(events) {
			if !yield(o.Values(d, chunk)) {
				return
			}
		}
	}
}

// Bulk is an insert of any number of events, with the arguments of Arrays. An unnest gives its rows in the arrays' order, so
// seq follows it.
func (o Outbox) Bulk(param func(column int) string, where string) string {
	arrays := make([]string, len(columnTypes))
	for i, t := range columnTypes {
		arrays[i] = param(i) + "::" + t + "[]"
	}
	return o.insertInto(fmt.Sprintf("\nSELECT %s\nFROM unnest(%s) AS endstate_event %s%s", received(arrays), strings.Join(arrays, ", "), InsertColumns, where))
}

// received are InsertColumns of the arrays' relation, endstate_event. In what all events share, an unnest gives NULL from the
// second row on.
func received(arrays []string) string {
	same := func(name string, i int) string {
		return fmt.Sprintf("coalesce(endstate_event.%s, (%s)[1])", name, arrays[i])
	}
	return strings.Join([]string{"endstate_event.id", same("aggregate_type", 1), "endstate_event.aggregate_id", same("type", 3), "endstate_event.payload", same("content_type", 5),
		same("headers", 6), "coalesce(endstate_event.occurred_at, clock_timestamp())", "endstate_event.dedup_key", same("schema_version", 9), "endstate_event.partition"}, ", ")
}

// Insert returns an INSERT of a call's events, of this form, to join with a guard's statement. The events go in if the condition
// holds. A single one may be taken with each row of from, a WITH clause's, unless that is empty, which costs the server less than a
// look at the row ahead. A taken dedup key or id is an error there.
func (o Outbox) Insert(a *Args, form Form, from, condition string) string {
	if form == many {
		return o.Bulk(func(column int) string { return a.Add(func(c *Call) any { return c.arrays[column] }) }, " WHERE "+condition)
	}
	rows := make([]string, form.Rows())
	for i := range rows {
		values := make([]string, len(columnTypes))
		for column, t := range columnTypes {
			if values[column] = usualConstants[column]; values[column] != "" && form.usual() {
				continue
			}
			values[column] = a.Add(eventArg(i, column)) + "::" + t
			if column == occurredAt {
				values[column] = "coalesce(" + values[column] + ", clock_timestamp())"
			}
		}
		rows[i] = strings.Join(values, ", ")
	}
	if len(rows) == 1 {
		if from != "" {
			from = " FROM " + from
		}
		return o.insertInto(fmt.Sprintf("SELECT %s%s WHERE %s", rows[0], from, condition))
	}
	return o.insertInto(fmt.Sprintf("SELECT * FROM (VALUES (%s)) AS endstate_values WHERE %s", strings.Join(rows, "), ("), condition))
}

// ColumnCount is how many arguments ColumnsMany returns.
const ColumnCount = len(columnTypes) + 1

// ClauseMany returns a WITH clause, to join with a guard's, that inserts the events of those calls whose endstate_n the clause
// named prev has. Its arguments are what ColumnsMany returns, and are the statement's first. A taken dedup key or id is an error
// there.
func (o Outbox) ClauseMany(name, prev string) string {
	arrays := make([]string, len(columnTypes))
	for i, t := range columnTypes {
		arrays[i] = fmt.Sprintf("$%d::%s[]", i+1, t)
	}
	owners := fmt.Sprintf("$%d::int8[]", ColumnCount)
	columns := strings.TrimSuffix(InsertColumns, ")")
	// An unnest gives its rows in the arrays' order, so seq follows it. IS TRUE keeps the look into prev a hashed one: a join of
	// two relations whose sizes can't be known could be planned as a nested loop.
	return fmt.Sprintf("%s AS (\n\t%s)", name, o.insertInto(fmt.Sprintf(`
	SELECT %s FROM unnest(%s) WITH ORDINALITY AS endstate_event %s, owner, place) WHERE (coalesce(endstate_event.owner, endstate_event.place) IN (SELECT endstate_n FROM %s)) IS TRUE`,
		received(arrays), strings.Join(append(arrays, owners), ", "), columns, prev)))
}

// uuids are what pgx knows without asking the server, and without looking for a way.
type uuids = pgtype.FlatArray[pgtype.UUID]

// ColumnsMany are the arguments of ClauseMany for the events of several calls. Where each has one event, no owners are sent.
func ColumnsMany(calls []*Call) []any {
	var events []Event
	var owners []int64
	several := slices.ContainsFunc(calls, func(c *Call) bool { return len(c.Events) != 1 })
	for n, c := range calls {
		for _, e := range c.Events {
			events = append(events, *e)
			if several {
				owners = append(owners, int64(n)+1)
			}
		}
	}
	return append(Arrays(events), owners)
}

// Each reports whether each call has one event, and a usual one, so that ClauseEach takes them.
func Each(calls []*Call) bool {
	return !slices.ContainsFunc(calls, func(c *Call) bool {
		return len(c.Events) != 1 || !c.Events[0].usual() || c.Events[0].DedupKey == ""
	})
}

// ClauseEach is ClauseMany for calls that each have one event: it is a part of its call's row in Item, and so in prev, which spares the
// server a second relation and the search for those that go in.
func (o Outbox) ClauseEach(b *Bulk, name, prev string) string {
	each := func(name string, column int) string {
		return b.each("event_"+name, columnTypes[column], func(c *Call) any { return c.Events[0].arg(column) })
	}
	alike := func(name string, get func(*Event) *string) string {
		return b.same("event_"+name, func(c *Call) *string { return get(c.Events[0]) })
	}
	values := [len(columnTypes)]string{
		each("id", 0),
		alike("aggregate_type", func(e *Event) *string { return &e.AggregateType }),
		each("aggregate_id", 2),
		alike("type", func(e *Event) *string { return &e.Type }),
		each("payload", 4),
		usualConstants[5],
		b.column("event_headers", "jsonb", true, func(calls []*Call) any {
			return &field{first(calls, func(c *Call) bool { return same(c.Events[0].Headers, calls[0].Events[0].Headers) }), func(c *Call) any { return c.Events[0].arg(6) }}
		}),
		usualConstants[occurredAt],
		each("dedup_key", 8),
		usualConstants[9],
		each("partition", 10),
	}
	return fmt.Sprintf("%s AS (\n\t%s)", name, o.insertInto(fmt.Sprintf("SELECT %s FROM %s", strings.Join(values[:], ", "), prev)))
}
