package sqlplan

import (
	"fmt"
	"slices"
	"strings"
)

// Item is the relation of a bulk statement's calls. Like all WITH clauses there it has a name that no table of a user's should
// have: such a table couldn't be seen.
const Item = "endstate_item"

// Bulk collects what a statement over many calls needs while its text is written. The calls are the rows of a relation, Item,
// with the column endstate_n, a call's place from 0, and a column for each field of Call that is asked for. The columns keep their
// names in relations that are made of Item's.
type Bulk struct {
	given   int
	args    []func([]*Call) any
	arrays  []string // Item's columns, as "$3::text[]"
	columns []string // and their names
	shared  map[string]string
}

// The columns of a call's fields.

func (b *Bulk) Key() string { return column(b, "key", "text", func(c *Call) string { return c.Key }) }
func (b *Bulk) State() string {
	return column(b, "state", "text", func(c *Call) string { return c.State })
}
func (b *Bulk) Trigger() string {
	return column(b, "trigger", "text", func(c *Call) string { return c.Trigger })
}
func (b *Bulk) Token() string {
	return column(b, "token", "text", func(c *Call) string { return c.Token.String() })
}
func (b *Bulk) Digest() string {
	return column(b, "digest", "bytea", func(c *Call) []byte { return c.Digest })
}

// IntPart is the column of a part of the key that is an int64.
func (b *Bulk) IntPart(i int) string {
	return column(b, fmt.Sprintf("part%d", i), "int8", func(c *Call) int64 { return c.Parts[i].(int64) })
}

// TextPart is the column of a part of the key that is a string.
func (b *Bulk) TextPart(i int) string {
	return column(b, fmt.Sprintf("part%d", i), "text", func(c *Call) string { return c.Parts[i].(string) })
}

// BytesPart is the column of a part of the key that is bytes.
func (b *Bulk) BytesPart(i int) string {
	return column(b, fmt.Sprintf("part%d", i), "bytea", func(c *Call) []byte { return c.Parts[i].([]byte) })
}

// PartLike is the column of a part of the key that is a string, with the type that a column of a table has: the server takes an
// array in text form for one of that type, where no type is named.
func (b *Bulk) PartLike(i int, like, table string) string {
	return b.once(fmt.Sprintf("part%d %s.%s", i, table, like), func() string {
		name := fmt.Sprintf("endstate_part%d", i)
		for n := 1; slices.Contains(b.columns, name); n++ { // of another table
			name = fmt.Sprintf("endstate_part%d_%d", i, n)
		}
		values := b.param(func(calls []*Call) any {
			elements := make([]string, len(calls))
			for n, c := range calls {
				elements[n] = c.Parts[i].(string)
			}
			return arrayText(elements)
		})
		b.arrays = append(b.arrays, fmt.Sprintf("array_cat(ARRAY(SELECT %s FROM %s WHERE false), %s)", like, table, values))
		b.columns = append(b.columns, name)
		return name
	})
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

// Value adds an argument that is the same for every call and returns its placeholder.
func (b *Bulk) Value(get Arg) string {
	return b.param(func(calls []*Call) any { return get(calls[0]) })
}

// StateFor is for a status column whose type isn't known, such as an enum's, to which SQL would not convert text. It returns
// the placeholder of the calls' different states, as an array in text form that takes its type from where it is used, and the
// column of each call's place in that, from 0.
func (b *Bulk) StateFor() (array, place string) {
	array = b.once("states", func() string {
		return b.param(func(calls []*Call) any { return arrayText(states(calls)) })
	})
	return array, b.column("place", "int4", func(calls []*Call) any {
		all := states(calls)
		places := make([]int32, len(calls))
		for i, c := range calls {
			places[i] = int32(slices.Index(all, c.State))
		}
		return places
	})
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

func (b *Bulk) column(name, sqlType string, arg func([]*Call) any) string {
	return b.once(name, func() string {
		b.arrays = append(b.arrays, b.param(arg)+"::"+sqlType+"[]")
		b.columns = append(b.columns, "endstate_"+name)
		return "endstate_" + name
	})
}

func column[T any](b *Bulk, name, sqlType string, get func(*Call) T) string {
	return b.column(name, sqlType, func(calls []*Call) any {
		values := make([]T, len(calls))
		for i, c := range calls {
			values[i] = get(c)
		}
		return values
	})
}

// BulkStatement is a finished text over many calls.
type BulkStatement struct {
	SQL  string
	args []func([]*Call) any
}

// BuildBulk writes a statement whose first placeholders are for so many given arguments of its own. What write returns
// follows the WITH clause of Item, and what before returns precedes that.
func BuildBulk(given int, before string, write func(*Bulk) string) BulkStatement {
	b := Bulk{given: given, shared: map[string]string{}}
	rest := write(&b)
	names := strings.Join(b.columns, ", ")
	sql := fmt.Sprintf("WITH %s"+Item+" AS MATERIALIZED (\n\tSELECT (n - 1)::int4 AS endstate_n, %s FROM unnest(%s) WITH ORDINALITY AS endstate_calls (%s, n)),\n%s",
		before, names, strings.Join(b.arrays, ", "), names, rest)
	return BulkStatement{sql, b.args}
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
