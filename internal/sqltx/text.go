package sqltx

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
)

// maxIdent is PostgreSQL's limit in bytes; it cuts longer names off silently, so that two could become one.
const maxIdent = 63

// CheckIdent says why name can't be an identifier. Every other name can: it is always quoted.
func CheckIdent(name string) error {
	switch {
	case name == "":
		return errors.New("is empty")
	case len(name) > maxIdent:
		return fmt.Errorf("is %d bytes long, PostgreSQL takes %d", len(name), maxIdent)
	}
	return CheckText(name)
}

// CheckText says why s can't be stored as text.
func CheckText(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("is not valid UTF-8")
	}
	if strings.IndexByte(s, 0) >= 0 {
		return errors.New("contains a NUL byte")
	}
	return nil
}

// Quote quotes an identifier, qualified by schema unless that is empty. Both dialects quote alike.
func Quote(schema, name string) string {
	q := `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
	if schema != "" {
		q = `"` + strings.ReplaceAll(schema, `"`, `""`) + `".` + q
	}
	return q
}

// Literal quotes a string constant of the dialect. SQLite knows no escapes.
func (d Dialect) Literal(s string) string {
	if d == SQLite {
		return `'` + strings.ReplaceAll(s, `'`, `''`) + `'`
	}
	return Literal(s)
}

// Literal quotes a PostgreSQL string constant so that it means the same whatever standard_conforming_strings says.
func Literal(s string) string {
	if strings.IndexByte(s, '\\') >= 0 {
		return `E'` + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + `'`
	}
	return `'` + strings.ReplaceAll(s, `'`, `''`) + `'`
}

// Signal is what a statement of ours raises when its transaction must not commit: on a pipelined connection COMMIT is on its
// way before the client could look at a result. It is random, and a cast carries it into the error's detail, so that no
// trigger, cast or constraint of a user's can raise it. PostgreSQL only.
type Signal string

// NewSignal returns the Signal of a random id that nobody else has.
func NewSignal(id [16]byte) Signal { return Signal(signalPrefix + hex.EncodeToString(id[:])) }

const signalPrefix = "endstate_"

// SignalOf is the SQL expression of the Signal of an id, an expression of type uuid.
func SignalOf(id string) string {
	return fmt.Sprintf("'%s' || pg_catalog.replace(%s::text, '-', '')", signalPrefix, id)
}

// Unless is an SQL condition that holds if verdict, an expression of type text, is 'true', is unknown if that is NULL, and
// raises the signal if verdict is the signal itself with a note of letters, digits and underscores behind it. Verdict must
// not be a constant, which would be cast while the statement is planned.
func Unless(verdict string) string { return fmt.Sprintf("(%s)::pg_catalog.json IS NOT NULL", verdict) }

// Note is the SQL expression of a text as a note.
func Note(text string) string {
	return fmt.Sprintf("pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(%s, 200), 'UTF8'), 'hex')", text)
}

// Raised reports whether err is the signal, and returns the note that was behind it.
func (s Signal) Raised(err error) (note string, ok bool) {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || s == "" || pg.Code != InvalidText {
		return "", false
	}
	_, rest, ok := strings.Cut(pg.Detail, string(s))
	if !ok {
		return "", false
	}
	end := strings.IndexFunc(rest, func(r rune) bool {
		return r != '_' && !('0' <= r && r <= '9') && !('a' <= r && r <= 'z')
	})
	if end >= 0 {
		rest = rest[:end]
	}
	return rest, true
}
