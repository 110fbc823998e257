package relay

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// Dialect tells sqltx, which an embedded Querier hides it from.
func (d database) Dialect() sqltx.Dialect { return d.dialect }

func (d database) sqlite() bool { return d.dialect == sqltx.SQLite }

// either is a part of a statement, in the database's dialect.
func (d database) either(postgres, sqlite string) string {
	if d.sqlite() {
		return sqlite
	}
	return postgres
}

// clock is the database's time of day.
func (d database) clock() string { return d.dialect.Clock() }

// later is the database's time of day plus a number of seconds, an expression.
func (d database) later(seconds string) string {
	return d.either("clock_timestamp() + make_interval(secs => "+seconds+")", "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ("+seconds+") || ' seconds')")
}

// age is how many seconds ago a time was, an expression.
func (d database) age(at string) string {
	return d.either("CAST(extract(epoch FROM clock_timestamp() - "+at+") AS double precision)", "(julianday('now') - julianday("+at+")) * 86400")
}

// random is a new token, an expression.
func (d database) random() string { return d.either("gen_random_uuid()", "lower(hex(randomblob(16)))") }

// uuid casts an expression of text to what the database keeps ids as.
func (d database) uuid(text string) string { return d.either("CAST("+text+" AS uuid)", text) }

// time is a time's argument, an expression; timeArg is what to send for it.
func (d database) time(arg string) string { return d.either("CAST("+arg+" AS timestamptz)", arg) }

func (d database) timeArg(t time.Time) any {
	if d.sqlite() {
		return t.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	return t
}

// kept reports whether a table may have a time: both dialects compare those of the years 1 to 9999, and RFC 3339 can write them.
func kept(t time.Time) bool {
	year := t.UTC().Year()
	return year >= 1 && year <= 9999
}

// least is the lower of two expressions.
func (d database) least(a, b string) string {
	return d.either("least", "min") + "(" + a + ", " + b + ")"
}

// contains reports whether a text has another in it, letter by letter, an expression.
func (d database) contains(text, part string) string {
	return d.either("strpos", "instr") + "(" + text + ", " + part + ") > 0"
}

// records are a JSON array of objects, an expression, as a relation of columns, each with its PostgreSQL type: "seq bigint".
func (d database) records(array, alias string, columns ...string) string {
	if !d.sqlite() {
		return fmt.Sprintf("json_to_recordset(CAST(%s AS json)) AS %s(%s)", array, alias, strings.Join(columns, ", "))
	}
	values := make([]string, len(columns))
	for i, column := range columns {
		name, _, _ := strings.Cut(column, " ")
		values[i] = fmt.Sprintf("json_extract(value, '$.%s') AS %[1]s", name)
	}
	return fmt.Sprintf("(SELECT %s FROM json_each(%s)) AS %s", strings.Join(values, ", "), array, alias)
}

// elements is a subselect of the elements of a JSON array, an expression, as values of a PostgreSQL type.
func (d database) elements(array, sqlType string) string {
	return d.either("SELECT CAST(element AS "+sqlType+") FROM json_array_elements_text(CAST("+array+" AS json)) AS element", "SELECT value FROM json_each("+array+")")
}

// forUpdate is how a SELECT ends that locks its rows; SQLite has one writer at a time. With SKIP LOCKED another session's locks don't
// stop it.
func (d database) forUpdate(how string) string { return d.either(" FOR UPDATE"+how, "") }

// moment scans a time: SQLite has it as text. It stays zero for NULL.
type moment struct{ time.Time }

// Scan implements sql.Scanner.
func (m *moment) Scan(value any) (err error) {
	switch v := value.(type) {
	case nil:
		m.Time = time.Time{}
	case time.Time:
		m.Time = v.UTC()
	case string:
		m.Time, err = time.Parse(time.RFC3339Nano, v)
	case []byte:
		m.Time, err = time.Parse(time.RFC3339Nano, string(v))
	default:
		err = errors.New("a time is neither a timestamp nor text")
	}
	return err
}

// leniently is a moment that is zero, and invalid, where it can't be scanned, or where RFC 3339 can't write it.
type leniently struct {
	moment
	valid bool
}

// Scan implements sql.Scanner.
func (l *leniently) Scan(value any) error {
	if l.valid = l.moment.Scan(value) == nil && !l.IsZero() && kept(l.Time); !l.valid {
		l.Time = time.Time{}
	}
	return nil
}
