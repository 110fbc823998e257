package guard

import (
	"context"
	"fmt"
	"strings"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// kindNames are the functions that make keys of a kind.
var kindNames = map[byte]string{kindText: "guard.Text", kindInt: "guard.Int", kindUUID: "guard.UUID", kindTime: "guard.Time", kindDate: "guard.Date", kindBytes: "guard.Bytes"}

// match is the condition that a key column, quoted and qualified, holds a value of this kind, on PostgreSQL. The index of the
// column, whatever its type is precisely, serves it, since the value takes the column's type: that of a domain, or of a padded
// char, to which a text would not be converted. A column of another kind is an error, so that one aggregate can't be known by two
// keys. The value is typed by a cast where no other kind's column would take that; else what the column can do tells its kind.
func match(kind byte, column, value string) string {
	switch kind {
	case kindInt:
		return column + " = " + value + "::int8"
	case kindUUID:
		return column + " = " + value + "::uuid"
	case kindBytes:
		return column + " = " + value + "::bytea"
	case kindDate:
		// A timestamp could be compared with a date, by the session's time zone, but has no day before.
		return fmt.Sprintf("%s = %s::date AND (%s - 1) IS NOT NULL", column, value, column)
	case kindTime:
		// The day that a date column would take the value for has no interval to itself.
		return fmt.Sprintf("%s = %s AND (%s - %s) = interval '0'", column, value, column, column)
	}
	// Only text can be translated. The lengths differ where the value has blanks at the end that a char column hasn't.
	return fmt.Sprintf("%s = %s AND octet_length(%s) = octet_length(translate(%s, '', ''))", column, value, value, column)
}

// matchSQLite is match on SQLite, which would convert '012' to the integer 12 to match it.
func matchSQLite(kind byte, column, value string) string {
	typeOf := "text"
	switch kind {
	case kindInt:
		typeOf = "integer"
	case kindBytes:
		typeOf = "blob"
	}
	return fmt.Sprintf("%s COLLATE BINARY = %s AND typeof(%s) = '%s'", column, value, column, typeOf)
}

// keyColumn is a key column on PostgreSQL, with the kind of key that it holds.
type keyColumn struct {
	column, sqlType string
	kind            byte
	zoned           bool // a timestamptz
}

// keyColumns finds the kinds of a table's keys by their columns' types. The error, which wraps ErrSchema, names a column that
// can't be one.
func (s Status) keyColumns(ctx context.Context, q endstate.Querier) ([]keyColumn, error) {
	columns, err := migrate.Columns(ctx, q, s.Schema, s.Table)
	if err != nil {
		return nil, err
	}
	return s.keyColumnsOf(columns)
}

func (s Status) keyColumnsOf(columns map[string]migrate.Column) (keys []keyColumn, err error) {
	for _, name := range s.keys() {
		c, ok := columns[name]
		if !ok {
			return nil, fmt.Errorf("%w: table %s has no column %s", ErrSchema, s.table(), sqltx.Quote("", name))
		}
		k := keyColumn{column: sqltx.Quote("", name), sqlType: c.Shown, kind: kindOf(c), zoned: c.Type == "timestamptz"}
		if k.kind == 0 {
			return nil, fmt.Errorf("%w: key column %s of table %s is %s, for which there are no keys; there are for text, varchar, char, the integers, numeric without a fraction, uuid, timestamptz, timestamp, date and bytea",
				ErrSchema, k.column, s.table(), c.Shown)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// kindOf is the kind of the keys that a column holds, 0 if it can't.
func kindOf(c migrate.Column) byte {
	switch c.Type {
	case "int2", "int4", "int8":
		return kindInt
	case "numeric":
		if c.Scale == 0 && c.Digits <= 18 { // an int64 holds all of them
			return kindInt
		}
		return 0
	case "uuid":
		return kindUUID
	case "timestamptz", "timestamp":
		return kindTime
	case "date":
		return kindDate
	case "bytea":
		return kindBytes
	}
	if c.Textual() {
		return kindText
	}
	return 0
}

// CheckKey says that key can't be one of the table's, since a part is of another kind than its column, such as a Text for a uuid
// column. The error wraps ErrInvalidKey. It looks at PostgreSQL's catalog; on SQLite, where columns have no kinds, it only counts
// the parts.
func (s Status) CheckKey(ctx context.Context, q endstate.Querier, key Key) error {
	if err := s.Fits(key); err != nil || sqltx.Of(q) == sqltx.SQLite {
		return err
	}
	columns, err := s.keyColumns(ctx, q)
	if err != nil {
		return err
	}
	i := 0
	for kind := range key.parts() {
		if c := columns[i]; c.kind != kind {
			return fmt.Errorf("%w: part %d was made by %s, but column %s of %s is %s: use %s", ErrInvalidKey, i+1, kindNames[kind], c.column, s.table(), c.sqlType, kindNames[c.kind])
		}
		i++
	}
	return nil
}

// CheckKey asks each guard that can tell.
func (g all) CheckKey(ctx context.Context, q endstate.Querier, key Key) error {
	for _, guard := range g {
		if c, ok := guard.(interface {
			CheckKey(context.Context, endstate.Querier, Key) error
		}); ok {
			if err := c.CheckKey(ctx, q, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// text is the column's value as it stands in a key, whatever the session's settings.
func (c keyColumn) text(qualifier string) string {
	column := qualifier + c.column
	switch c.kind {
	case kindTime:
		if c.zoned {
			column += " AT TIME ZONE 'UTC'"
		}
		return fmt.Sprintf(`coalesce(to_char(%s, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), CAST(%s AS text))`, column, qualifier+c.column) // infinity has no parts
	case kindDate:
		return fmt.Sprintf("coalesce(to_char(%[1]s, 'YYYY-MM-DD'), CAST(%[1]s AS text))", column)
	case kindBytes:
		return fmt.Sprintf("encode(%s, 'hex')", column)
	}
	return fmt.Sprintf("CAST(%s AS text)", column)
}

// encoded is the part of Key.Encode.
func (c keyColumn) encoded() string {
	return fmt.Sprintf("'%c:' || replace(replace(replace(%s, '%%', '%%25'), '/', '%%2F'), '#', '%%23')", c.kind, c.text(""))
}

// value is what a placeholder of text, such as text returns, stands for.
func (c keyColumn) value(placeholder string) string {
	if c.kind == kindBytes {
		return fmt.Sprintf("decode(%s::text, 'hex')", placeholder)
	}
	return fmt.Sprintf("%s::text::%s", placeholder, c.sqlType)
}

// usable is the condition that the column's value can be part of a key: what Key.Validate says, but for the length.
func (c keyColumn) usable(qualifier string) string {
	column := qualifier + c.column
	switch c.kind {
	case kindTime, kindDate:
		return fmt.Sprintf("coalesce(%[1]s >= '0001-01-01' AND %[1]s < '10000-01-01', false)", column)
	}
	return fmt.Sprintf("coalesce(%s, '') <> ''", c.text(qualifier))
}

// join lists something of each key column.
func join(columns []keyColumn, sep string, f func(keyColumn) string) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = f(c)
	}
	return strings.Join(list, sep)
}
