package sqlplan

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Item is the relation of a bulk statement's calls. Like all WITH clauses there it has a name that no table of a user's should
// have: such a table couldn't be seen.
const Item = "endstate_item"

// At is, in a statement with patience, one time for all calls: that at which it is first asked for.
const At = "(SELECT endstate_at FROM endstate_time)"

// Bulk collects what a statement over many calls needs while its text is written. The calls are the rows of a relation, Item,
// with the column endstate_n, a call's place from 1, and a column for each field of Call that is asked for. The columns keep their
// names in relations that are made of Item's.
type Bulk struct {
	given   int
	args    []func([]*Call) any
	columns []itemColumn
	shared  map[string]string
}

// itemColumn is a column of Item: its array, as "$3::text[]", and what is made of an element.
type itemColumn struct{ name, array, value string }

// The columns of a call's fields.

func (b *Bulk) Key() string   { return b.text("key", func(c *Call) *string { return &c.Key }) }
func (b *Bulk) State() string { return b.same("state", func(c *Call) *string { return &c.State }) }
func (b *Bulk) Trigger() string {
	return b.same("trigger", func(c *Call) *string { return &c.Trigger })
}
func (b *Bulk) Token() string {
	return b.each("token", "uuid", func(c *Call) any { return (*UUID)(&c.Token) })
}
func (b *Bulk) Digest() string {
	return b.each("digest", "bytea", func(c *Call) any { return (*Bytes)(&c.Digest) })
}

// IntPart is the column of a part of the key that is an int64.
func (b *Bulk) IntPart(i int) string { return b.part(i, "int8") }

// TextPart is the column of a part of the key that is a string.
func (b *Bulk) TextPart(i int) string { return b.part(i, "text") }

// BytesPart is the column of a part of the key that is bytes.
func (b *Bulk) BytesPart(i int) string { return b.part(i, "bytea") }

func (b *Bulk) part(i int, sqlType string) string {
	return b.each(fmt.Sprintf("part%d", i), sqlType, func(c *Call) any { return c.Parts[i] })
}

// PartLike is the column of a part of the key that is a string, with the type that a column of a table has: the server takes an
// array in text form for one of that type, where no type is named.
func (b *Bulk) PartLike(i int, like, table string) string {
	return b.once(fmt.Sprintf("part%d %s.%s", i, table, like), func() string {
		name := fmt.Sprintf("endstate_part%d", i)
		for n := 1; slices.ContainsFunc(b.columns, func(c itemColumn) bool { return c.name == name }); n++ { // of another table
			name = fmt.Sprintf("endstate_part%d_%d", i, n)
		}
		values := b.param(func(calls []*Call) any {
			return arrayText(each(calls, func(c *Call) string { return c.Parts[i].(string) }))
		})
		b.columns = append(b.columns, itemColumn{name, typedArray(like, table, values), name})
		return name
	})
}

// typedArray is an array, given in text form, whose type is that of the table's column.
func typedArray(column, table, values string) string {
	return fmt.Sprintf("array_cat(ARRAY(SELECT %s FROM %s WHERE false), %s)", column, table, values)
}

// arrayText is an array in text form.
func arrayText(elements []string) string {
	var text strings.Builder
	text.WriteByte('{')
	for i, element := range elements {
		if i > 0 {
			text.WriteByte(',')
		}
		text.WriteByte('"')
		_, _ = escapeElement.WriteString(&text, element)
		text.WriteByte('"')
	}
	text.WriteByte('}')
	return text.String()
}

// Aggregate is the placeholder of the aggregate type, which all calls share.
func (b *Bulk) Aggregate() string {
	return b.once("aggregate", func() string { return b.Value(func(c *Call) any { return c.Aggregate }) + "::text" })
}

// Count is the placeholder of how many calls there are.
func (b *Bulk) Count() string {
	return b.once("count", func() string { return b.param(func(calls []*Call) any { return int64(len(calls)) }) + "::int8" })
}

// Value adds an argument that is the same for every call and returns its placeholder.
func (b *Bulk) Value(get Arg) string {
	return b.param(func(calls []*Call) any { return get(calls[0]) })
}

// StateOf is the state of a row of Item, from, with the type of the table's status column, such as an enum, to which SQL would not
// convert text.
func (b *Bulk) StateOf(from, column, table string) string {
	all := b.once(fmt.Sprintf("states of %s.%s", table, column), func() string {
		return fmt.Sprintf("(SELECT %s)", typedArray(column, table, b.param(func(calls []*Call) any { return arrayText(states(calls)) })))
	})
	return fmt.Sprintf("%s[%s.%s]", all, from, b.column("place", "int4", true, func(calls []*Call) any {
		all := states(calls)
		return oneOrEach(calls, func(c *Call) int32 { return int32(slices.Index(all, c.State)) + 1 })
	}))
}

var escapeElement = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// states are the different states of calls.
func states(calls []*Call) []string {
	var all []string
	for _, c := range calls {
		if !slices.Contains(all, c.State) {
			all = append(all, c.State)
		}
	}
	return all
}

func (b *Bulk) param(arg func([]*Call) any) string {
	b.args = append(b.args, arg)
	return fmt.Sprintf("$%d", b.given+len(b.args))
}

// once makes what is called name when it is first asked for.
func (b *Bulk) once(name string, make func() string) string {
	if _, ok := b.shared[name]; !ok {
		b.shared[name] = make()
	}
	return b.shared[name]
}

// each is a column of one argument for each call.
func (b *Bulk) each(name, sqlType string, get Arg) string {
	return b.column(name, sqlType, false, func(calls []*Call) any { return &field{calls, get} })
}

func (b *Bulk) text(name string, get func(*Call) *string) string {
	return b.each(name, "text", func(c *Call) any { return (*Text)(get(c)) })
}

// same is text that mostly is the same in all calls.
func (b *Bulk) same(name string, get func(*Call) *string) string {
	return b.column(name, "text", true, func(calls []*Call) any {
		return &field{first(calls, func(c *Call) bool { return *get(c) == *get(calls[0]) }), func(c *Call) any { return (*Text)(get(c)) }}
	})
}

// first is the first of calls, if all others have the same, else calls.
func first(calls []*Call, same func(*Call) bool) []*Call {
	for _, c := range calls[1:] {
		if !same(c) {
			return calls
		}
	}
	return calls[:1]
}

// column adds a column. Of one that may be short, what is beyond its array's end is its first element: unnest gives NULL there.
func (b *Bulk) column(name, sqlType string, short bool, arg func([]*Call) any) string {
	return b.once(name, func() string {
		c := itemColumn{name: "endstate_" + name, array: b.param(arg) + "::" + sqlType + "[]"}
		if c.value = c.name; short {
			c.value = fmt.Sprintf("coalesce(%s, (%s)[1]) AS %s", c.name, c.array, c.name)
		}
		b.columns = append(b.columns, c)
		return c.name
	})
}

func each[T any](calls []*Call, get func(*Call) T) []T {
	values := make([]T, len(calls))
	for i, c := range calls {
		values[i] = get(c)
	}
	return values
}

// oneOrEach is each, or one value if all are the same.
func oneOrEach[T comparable](calls []*Call, get func(*Call) T) []T {
	first := get(calls[0])
	for _, c := range calls {
		if get(c) != first {
			return each(calls, get)
		}
	}
	return []T{first}
}

// BulkStatement is a finished text over many calls.
type BulkStatement struct {
	SQL  string
	args []func([]*Call) any
}

// BuildBulk writes a statement whose first placeholders are for so many given arguments of its own, of what write returns: further
// WITH clauses, and what follows them. With patience, the statement waits no longer for any one lock: that is in force before Item
// has a row, and ends with the transaction.
func BuildBulk(given int, patience time.Duration, write func(*Bulk) (clauses []string, query string)) BulkStatement {
	b := Bulk{given: given, shared: map[string]string{}}
	clauses, query := write(&b)
	var names, arrays, values []string
	for _, c := range b.columns {
		names, arrays, values = append(names, c.name), append(arrays, c.array), append(values, c.value)
	}
	from := fmt.Sprintf("unnest(%s) WITH ORDINALITY AS endstate_calls (%s, endstate_n)", strings.Join(arrays, ", "), strings.Join(names, ", "))
	var before []string
	if patience > 0 {
		from = "endstate_patience CROSS JOIN " + from
		before = []string{fmt.Sprintf("endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '%d', true))", patience.Milliseconds()),
			"endstate_time AS MATERIALIZED (SELECT clock_timestamp() AS endstate_at)"}
	}
	item := fmt.Sprintf("%s AS (\n\tSELECT endstate_n, %s FROM %s)", Item, strings.Join(values, ", "), from)
	return BulkStatement{"WITH " + strings.Join(slices.Concat(before, []string{item}, clauses), ",\n") + "\n" + query, b.args}
}

// Args are the statement's arguments for these calls, one at least, behind the given ones.
func (s BulkStatement) Args(given []any, calls []*Call) []any {
	values := make([]any, 0, len(given)+len(s.args))
	values = append(values, given...)
	for _, arg := range s.args {
		values = append(values, arg(calls))
	}
	return values
}
