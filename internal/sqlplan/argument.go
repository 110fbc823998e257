package sqlplan

import (
	"database/sql/driver"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// Fields are arguments as pointers, which an interface holds without another allocation. Their types say what they are to pgx, in
// PostgreSQL's binary format or as text, and to other drivers (driver.Valuer); String is for tracers, which show arguments.

// Text is a string.
type Text string

// TextValue implements pgtype.TextValuer.
func (t *Text) TextValue() (pgtype.Text, error) { return textOf(t.String()) }
func (t *Text) Value() (driver.Value, error)    { return t.String(), nil }
func (t *Text) String() string                  { return string(*t) }

func textOf(s string) (pgtype.Text, error) { return pgtype.Text{String: s, Valid: true}, nil }

// UUID is a uuid.
type UUID uuid.UUID

// UUIDValue implements pgtype.UUIDValuer.
func (u *UUID) UUIDValue() (pgtype.UUID, error) { return pgtype.UUID{Bytes: *u, Valid: true}, nil }
func (u *UUID) TextValue() (pgtype.Text, error) { return textOf(u.String()) }
func (u *UUID) Value() (driver.Value, error)    { return u.String(), nil }
func (u *UUID) String() string                  { return uuid.UUID(*u).String() }

// Bytes is a bytea; nil is NULL.
type Bytes []byte

// BytesValue implements pgtype.BytesValuer.
func (b *Bytes) BytesValue() ([]byte, error) { return *b, nil }
func (b *Bytes) TextValue() (pgtype.Text, error) {
	return pgtype.Text{String: b.String(), Valid: *b != nil}, nil
}
func (b *Bytes) Value() (driver.Value, error) { return []byte(*b), nil }
func (b *Bytes) String() string               { return `\x` + hex.EncodeToString(*b) }

// field is an array of one argument of each call, none of them NULL, which pgx takes one by one.
type field struct {
	calls []*Call
	of    Arg
}

func (f *field) Dimensions() []pgtype.ArrayDimension {
	return []pgtype.ArrayDimension{{Length: int32(len(f.calls)), LowerBound: 1}}
}
func (f *field) Index(i int) any                 { return f.of(f.calls[i]) }
func (f *field) IndexType() any                  { return f.of(f.calls[0]) }
func (f *field) TextValue() (pgtype.Text, error) { return textOf(f.String()) }

func (f *field) String() string {
	return arrayText(each(f.calls, func(c *Call) string {
		if b, ok := f.of(c).([]byte); ok {
			return (*Bytes)(&b).String()
		}
		return fmt.Sprint(f.of(c))
	}))
}

// headers are an event's, as JSON.
type headers map[string]string

func (h *headers) TextValue() (pgtype.Text, error) { return textOf(h.String()) }
func (h *headers) Value() (driver.Value, error)    { return h.String(), nil }

func (h *headers) String() string {
	switch len(*h) {
	case 0:
		return "{}"
	case 1: // a trace's, as a rule, in which nothing needs an escape
		for name, value := range *h {
			if plain(name) && plain(value) {
				return `{"` + name + `":"` + value + `"}`
			}
		}
	}
	text, _ := json.Marshal(map[string]string(*h)) // a map of strings can't fail
	return string(text)
}

// plain reports whether JSON has text as it is.
func plain(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
