// Package published reads what audit and adopt are told about which events of a foreign outbox table are published, and
// judges it by the table: a column whose type doesn't say so is refused rather than guessed at.
package published

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// operator is what a Condition does with its column.
type operator string

const (
	judged    operator = "" // the column alone, whose type decides
	equal     operator = "="
	unequal   operator = "<>"
	in        operator = "IN"
	notIn     operator = "NOT IN"
	isNull    operator = "IS NULL"
	isNotNull operator = "IS NOT NULL"
)

// Condition says which rows are published. It is data: what a user wrote never becomes part of a statement but as a quoted
// name and as quoted values.
type Condition struct {
	Column string
	op     operator
	values []value
}

// value is one that a column is compared with.
type value struct {
	text string
	bare bool // written without quotes: on SQLite a number, or true and false
}

// forms is what Parse takes, for errors.
const forms = "write COLUMN, COLUMN = VALUE, COLUMN <> VALUE, COLUMN IN (VALUE, …), COLUMN NOT IN (VALUE, …), COLUMN IS NULL or COLUMN IS NOT NULL, " +
	"with a value in '…' and a column in \"…\" if there are others than letters and digits in them"

var (
	name      = `("(?:[^"]|"")+"|[^\s"'()=<>!,;]+)`
	plain     = regexp.MustCompile(`^[^"'()=<>!,;]+$`) // a name that needs no quotes
	alone     = regexp.MustCompile(`^(?:"(?:[^"]|"")+"|[^"'()=<>!,;]+)$`)
	compares  = regexp.MustCompile(`(?s)^` + name + `\s*(=|<>|!=)\s*(.+)$`)
	isOneOf   = regexp.MustCompile(`(?is)^` + name + `\s+(NOT\s+)?IN\s*\((.+)\)$`)
	nullness  = regexp.MustCompile(`(?is)^` + name + `\s+IS\s+(NOT\s+)?NULL$`)
	nextValue = regexp.MustCompile(`(?s)^\s*('(?:[^']|'')*'|[^\s"'()=<>!,;\\]+)\s*(,|$)`)
)

// Parse reads a condition. A text without an operator is a column's name as it is.
func Parse(text string) (Condition, error) {
	if err := sqltx.CheckText(text); err != nil {
		return Condition{}, err
	}
	var c Condition
	trimmed := strings.TrimFunc(text, unicode.IsSpace)
	var list string
	if m := nullness.FindStringSubmatch(trimmed); m != nil {
		c = Condition{Column: m[1], op: isNull}
		if m[2] != "" {
			c.op = isNotNull
		}
	} else if m := isOneOf.FindStringSubmatch(trimmed); m != nil {
		c, list = Condition{Column: m[1], op: in}, m[3]
		if m[2] != "" {
			c.op = notIn
		}
	} else if m := compares.FindStringSubmatch(trimmed); m != nil {
		c, list = Condition{Column: m[1], op: equal}, m[3]
		if m[2] != "=" {
			c.op = unequal
		}
	} else if alone.MatchString(text) {
		c.Column = text
	} else {
		return Condition{}, fmt.Errorf("is %q, which is no condition: %s", text, forms)
	}
	if strings.HasPrefix(c.Column, `"`) {
		c.Column = strings.ReplaceAll(c.Column[1:len(c.Column)-1], `""`, `"`)
	}
	if err := sqltx.CheckIdent(c.Column); err != nil {
		return Condition{}, err
	}
	if list == "" {
		return c, nil
	}
	values, err := parseValues(list)
	if err != nil {
		return Condition{}, fmt.Errorf("is %q: %w", text, err)
	}
	if len(values) > 1 && c.op != in && c.op != notIn {
		return Condition{}, fmt.Errorf("is %q, with several values: write COLUMN IN (VALUE, …)", text)
	}
	c.values = values
	return c, nil
}

func parseValues(list string) (values []value, err error) {
	for {
		m := nextValue.FindStringSubmatch(list)
		if m == nil {
			return nil, errors.New(forms)
		}
		v := value{m[1], true}
		switch {
		case strings.HasPrefix(v.text, "'"):
			v = value{strings.ReplaceAll(v.text[1:len(v.text)-1], "''", "'"), false}
		case strings.EqualFold(v.text, "NULL"):
			return nil, errors.New("nothing equals NULL: write COLUMN IS NULL or COLUMN IS NOT NULL")
		}
		values = append(values, v)
		if m[2] == "" {
			return values, nil
		}
		list = list[len(m[0]):]
	}
}

// String is the condition in the form that Parse reads. Conditions that mean the same have one.
func (c Condition) String() string {
	if c.op == judged {
		if plain.MatchString(c.Column) {
			return c.Column
		}
		return sqltx.Quote("", c.Column)
	}
	text := sqltx.Quote("", c.Column) + " " + string(c.op)
	if len(c.values) == 0 {
		return text
	}
	values := make([]string, len(c.values))
	for i, v := range c.values {
		if values[i] = v.text; !v.bare {
			values[i] = "'" + strings.ReplaceAll(v.text, "'", "''") + "'"
		}
	}
	slices.Sort(values)
	if c.op == in || c.op == notIn {
		return text + " (" + strings.Join(values, ", ") + ")"
	}
	return text + " " + values[0]
}

// Stated reports whether the condition says more than a column's name.
func (c Condition) Stated() bool { return c.op != judged }

var number = regexp.MustCompile(`^[+-]?[0-9]+(\.[0-9]+)?$`)

// sql is a stated condition, true or false of each row.
func (c Condition) sql(dialect sqltx.Dialect) string {
	text := sqltx.Quote("", c.Column) + " " + string(c.op)
	var values []string
	for _, v := range c.values {
		switch {
		case dialect == sqltx.SQLite && v.bare && (number.MatchString(v.text) || strings.EqualFold(v.text, "true") || strings.EqualFold(v.text, "false")):
			values = append(values, v.text)
		default:
			// Without a cast it has, on PostgreSQL, the column's type, where a cast would cut it to the column's length.
			values = append(values, dialect.Literal(v.text))
		}
	}
	switch c.op {
	case equal, unequal:
		text += " " + values[0]
	case in, notIn:
		text += " (" + strings.Join(values, ", ") + ")"
	}
	return "((" + text + ") IS TRUE)"
}
