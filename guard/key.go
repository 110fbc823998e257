package guard

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// MaxKey is the longest canonical encoding of a key, in bytes. It leaves room in a btree entry (about 2,700 bytes) for the
// aggregate's name and an event's type.
const MaxKey = 1000

// Key identifies an aggregate among those of its type. Its parts are typed, so that the text "1" and the integer 1 are two
// keys, while two spellings of one UUID are one. The zero Key is invalid. Keys are comparable with == only by String or
// Encode; they are immutable and safe for concurrent use.
type Key struct{ parts []part }

type part struct {
	kind byte // one of the kinds below
	text string
	num  int64
}

const (
	kindText = 't'
	kindInt  = 'i'
	kindUUID = 'u'
)

// Text is a key for text and varchar columns, compared byte by byte.
func Text(s string) Key { return Key{[]part{{kind: kindText, text: s}}} }

// Int is a key for smallint, integer and bigint columns.
func Int(n int64) Key { return Key{[]part{{kind: kindInt, num: n}}} }

// UUID is a key for uuid columns. SQLite has no such type: there the column holds the canonical, lower-case text.
func UUID(id uuid.UUID) Key { return Key{[]part{{kind: kindUUID, text: id.String()}}} }

// ParseUUID is UUID for the text form, in any of its spellings (upper case, braces, urn:uuid:, no hyphens).
func ParseUUID(s string) (Key, error) {
	id, err := uuid.Parse(s)
	if err != nil {
		return Key{}, fmt.Errorf("%w: not a UUID: %w", ErrInvalidKey, err)
	}
	return UUID(id), nil
}

// Composite is a key of several columns, such as (tenant_id, id). Nested composites are flattened.
func Composite(keys ...Key) Key {
	var c Key
	for _, k := range keys {
		c.parts = append(c.parts, k.parts...)
	}
	return c
}

var (
	escapeEncoded = strings.NewReplacer("%", "%25", "/", "%2F", "#", "%23")
	escapeShown   = strings.NewReplacer("%", "%25", "/", "%2F")
)

// Encode returns the canonical form: each part as its kind's letter, a colon and its value, joined by slashes, such as
// "i:42" or "u:6ba7b810-9dad-11d1-80b4-00c04fd430c8/t:a%2Fb". It is injective: different keys never share an encoding.
// Ledger, dedup keys and locks use it. In text, "%", "/" and "#" are written %25, %2F and %23.
func (k Key) Encode() string {
	if len(k.parts) == 1 && k.parts[0].kind != kindText {
		return string(k.parts[0].kind) + ":" + k.parts[0].value()
	}
	var b strings.Builder
	for i, p := range k.parts {
		if i > 0 {
			b.WriteByte('/')
		}
		b.WriteByte(p.kind)
		b.WriteByte(':')
		b.WriteString(escapeEncoded.Replace(p.value()))
	}
	return b.String()
}

// String returns the key as people and event consumers know it: the plain value, or for a composite key its parts joined
// by slashes (with "%" and "/" in them written %25 and %2F). It tells no kinds apart: use Encode where that matters.
func (k Key) String() string {
	if len(k.parts) == 1 {
		return k.parts[0].value()
	}
	shown := make([]string, len(k.parts))
	for i, p := range k.parts {
		shown[i] = escapeShown.Replace(p.value())
	}
	return strings.Join(shown, "/")
}

// Validate says why k can't be used: it is empty, has an empty text part, is longer than MaxKey when encoded, or contains
// a NUL byte or invalid UTF-8. The error wraps ErrInvalidKey.
func (k Key) Validate() error {
	if len(k.parts) == 0 {
		return fmt.Errorf("%w: it is empty; make one with guard.Text, Int, UUID or Composite", ErrInvalidKey)
	}
	for i, p := range k.parts {
		if p.kind != kindText {
			continue
		}
		if p.text == "" {
			return fmt.Errorf("%w: part %d is empty", ErrInvalidKey, i+1)
		}
		if err := sqltx.CheckText(p.text); err != nil {
			return fmt.Errorf("%w: part %d %w", ErrInvalidKey, i+1, err)
		}
	}
	if n := len(k.Encode()); n > MaxKey {
		return fmt.Errorf("%w: it is %d bytes long when encoded, the limit is %d", ErrInvalidKey, n, MaxKey)
	}
	return nil
}

func (p part) value() string {
	if p.kind == kindInt {
		return strconv.FormatInt(p.num, 10)
	}
	return p.text
}

// arg is the part as a query argument.
func (p part) arg() any {
	if p.kind == kindInt {
		return p.num
	}
	return p.text
}

// cast is the SQL type that makes PostgreSQL refuse, rather than convert, a part that is of another kind than its column.
func cast(kind byte) string {
	switch kind {
	case kindInt:
		return "::int8"
	case kindUUID:
		return "::uuid"
	}
	return "::text"
}

// Shape returns the kinds of the key's parts, a letter each. Keys of one shape are looked up by the same SQL text.
func (k Key) Shape() string {
	shape := make([]byte, len(k.parts))
	for i, p := range k.parts {
		shape[i] = p.kind
	}
	return string(shape)
}

// Args returns the key's parts as query arguments, in order: an int64 for Int, else a string. A guard of your own passes
// them to its statements.
func (k Key) Args() []any {
	args := make([]any, len(k.parts))
	for i, p := range k.parts {
		args[i] = p.arg()
	}
	return args
}
