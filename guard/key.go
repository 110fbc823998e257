package guard

import (
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// MaxKey is the longest canonical encoding of a key, in bytes. It leaves room in a btree entry (about 2,700 bytes) for the
// aggregate's name and an event's type.
const MaxKey = 1000

// Key identifies an aggregate among those of its type. Its parts are typed, so that the text "1" and the integer 1 are two
// keys, while two spellings of one UUID are one. The zero Key is invalid. Keys are comparable, so == and maps work; they are
// immutable and safe for concurrent use.
type Key struct{ encoded string } // as Encode says: a key that is looked up by need not be encoded first

// The kinds of a part, by which its encoding begins.
const (
	kindText = 't'
	kindInt  = 'i'
	kindUUID = 'u'
)

// Text is a key for text and varchar columns, compared byte by byte.
func Text(s string) Key {
	if strings.ContainsAny(s, "%/#") {
		s = escapeEncoded.Replace(s)
	}
	return Key{"t:" + s}
}

// Int is a key for smallint, integer and bigint columns.
func Int(n int64) Key {
	var buf [24]byte // two bytes more than the longest takes
	return Key{string(strconv.AppendInt(append(buf[:0], "i:"...), n, 10))}
}

// UUID is a key for uuid columns. SQLite has no such type: there the column holds the canonical, lower-case text.
func UUID(id uuid.UUID) Key { return Key{"u:" + id.String()} }

// ParseUUID is UUID for the text form, in any of its spellings (upper case, braces, urn:uuid:, no hyphens).
func ParseUUID(s string) (Key, error) {
	id, err := uuid.Parse(s)
	if err != nil {
		return Key{}, fmt.Errorf("%w: not a UUID: %w", ErrInvalidKey, err)
	}
	return UUID(id), nil
}

// Composite is a key of several columns, such as (tenant_id, id). Nested composites are flattened. With a zero Key among them
// it is the zero Key, and so invalid: without that part it would be another aggregate's.
func Composite(keys ...Key) Key {
	parts := make([]string, 0, len(keys))
	for _, k := range keys {
		if k.encoded == "" {
			return Key{}
		}
		parts = append(parts, k.encoded)
	}
	return Key{strings.Join(parts, "/")}
}

var (
	escapeEncoded   = strings.NewReplacer("%", "%25", "/", "%2F", "#", "%23")
	unescapeEncoded = strings.NewReplacer("%25", "%", "%2F", "/", "%23", "#")
	escapeShown     = strings.NewReplacer("%", "%25", "/", "%2F")
)

// Encode returns the canonical form: each part as its kind's letter, a colon and its value, joined by slashes, such as
// "i:42" or "u:6ba7b810-9dad-11d1-80b4-00c04fd430c8/t:a%2Fb". It is injective: different keys never share an encoding.
// Ledger, dedup keys and locks use it. In text, "%", "/" and "#" are written %25, %2F and %23.
func (k Key) Encode() string { return k.encoded }

// parts yields the kind and the value of each part.
func (k Key) parts() iter.Seq2[byte, string] {
	return func(yield func(byte, string) bool) {
		for part := range strings.SplitSeq(k.encoded, "/") {
			if part == "" {
				return // the zero key
			}
			value := part[2:]
			if strings.IndexByte(value, '%') >= 0 {
				value = unescapeEncoded.Replace(value)
			}
			if !yield(part[0], value) {
				return
			}
		}
	}
}

// len is the number of parts.
func (k Key) len() int {
	if k.encoded == "" {
		return 0
	}
	return strings.Count(k.encoded, "/") + 1
}

// String returns the key as people and event consumers know it: the plain value, or for a composite key its parts joined
// by slashes (with "%" and "/" in them written %25 and %2F). It tells no kinds apart: use Encode where that matters.
func (k Key) String() string {
	shown := make([]string, 0, 2)
	for _, value := range k.parts() {
		shown = append(shown, value)
	}
	if len(shown) > 1 {
		for i, value := range shown {
			shown[i] = escapeShown.Replace(value)
		}
	}
	return strings.Join(shown, "/")
}

// Validate says why k can't be used: it is empty, has an empty text part, is longer than MaxKey when encoded, or contains
// a NUL byte or invalid UTF-8. The error wraps ErrInvalidKey.
func (k Key) Validate() error {
	if k.encoded == "" {
		return fmt.Errorf("%w: it is empty; make one with guard.Text, Int, UUID or Composite", ErrInvalidKey)
	}
	n := 0
	for kind, value := range k.parts() {
		n++
		if kind != kindText {
			continue
		}
		if value == "" {
			return fmt.Errorf("%w: part %d is empty", ErrInvalidKey, n)
		}
		if err := sqltx.CheckText(value); err != nil {
			return fmt.Errorf("%w: part %d %w", ErrInvalidKey, n, err)
		}
	}
	if n := len(k.encoded); n > MaxKey {
		return fmt.Errorf("%w: it is %d bytes long when encoded, the limit is %d", ErrInvalidKey, n, MaxKey)
	}
	return nil
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
	if k.len() == 1 {
		return k.encoded[:1]
	}
	shape := make([]byte, 0, 4)
	for kind := range k.parts() {
		shape = append(shape, kind)
	}
	return string(shape)
}

// Args returns the key's parts as query arguments, in order: an int64 for Int, else a string. A guard of your own passes
// them to its statements.
func (k Key) Args() []any {
	args := make([]any, 0, k.len())
	for kind, value := range k.parts() {
		if kind == kindInt {
			n, _ := strconv.ParseInt(value, 10, 64) // Int wrote it
			args = append(args, n)
			continue
		}
		args = append(args, value)
	}
	return args
}
