package guard

import (
	"encoding/hex"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// MaxKey is the longest canonical encoding of a key, in bytes. It leaves room in a btree entry (about 2,700 bytes) for the
// aggregate's name and an event's type.
const MaxKey = 1000

// Key identifies an aggregate among those of its type. Its parts are typed, so that the text "1" and the integer 1 are two
// keys, while two spellings of one UUID are one. The zero Key is invalid. Keys are comparable, so == and maps work; they are
// immutable and safe for concurrent use.
type Key struct {
	encoded string // the canonical form, see Encode
}

// The kinds of a part, by which its encoding begins.
const (
	kindText  = 't'
	kindInt   = 'i'
	kindUUID  = 'u'
	kindTime  = 's'
	kindDate  = 'd'
	kindBytes = 'b'
)

// The layouts of times and dates in an encoding. PostgreSQL counts microseconds.
const (
	timeLayout = "2006-01-02T15:04:05.000000Z"
	dateLayout = time.DateOnly
)

// Text is a key for text, varchar and char columns, compared byte by byte; of a char column the blanks at the end, with which
// PostgreSQL pads it, are no part.
func Text(s string) Key {
	if strings.ContainsAny(s, "%/#") {
		s = escapeEncoded.Replace(s)
	}
	return Key{"t:" + s}
}

// Int is a key for smallint, integer and bigint columns, and for numeric ones without a fraction.
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

// Time is a key for timestamptz columns, such as that by which a table is partitioned: the moment that t is, whatever its
// location, cut to microseconds as PostgreSQL's drivers do. In a timestamp column, which has no time zone, it is the moment's
// time of day in UTC: what a driver reads from the column, or RFC 3339 text with six digits of a second on SQLite. The years 1
// to 9999 can be keys.
func Time(t time.Time) Key { return Key{string(kindTime) + ":" + t.UTC().Format(timeLayout)} }

// Date is a key for date columns: the day that t shows in its own location. SQLite's columns hold text such as 2026-01-31. The
// years 1 to 9999 can be keys.
func Date(t time.Time) Key { return Key{string(kindDate) + ":" + t.Format(dateLayout)} }

// Bytes is a key for bytea columns, on SQLite for blobs. Encoded it is in hexadecimal, and twice as long.
func Bytes(b []byte) Key { return Key{string(kindBytes) + ":" + hex.EncodeToString(b)} }

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

// Parts returns the keys that k is composed of, or k itself; none of the zero Key.
func (k Key) Parts() []Key {
	if k.encoded == "" {
		return nil
	}
	parts := make([]Key, 0, k.len())
	for part := range strings.SplitSeq(k.encoded, "/") {
		parts = append(parts, Key{part})
	}
	return parts
}

// Text returns what was given to the function Text, and whether k was made by it.
func (k Key) Text() (string, bool) { return k.only(kindText) }

// Int returns what was given to the function Int, and whether k was made by it.
func (k Key) Int() (int64, bool) {
	value, ok := k.only(kindInt)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(value, 10, 64)
	return n, err == nil
}

// UUID returns what was given to the function UUID, and whether k was made by it or by ParseUUID.
func (k Key) UUID() (uuid.UUID, bool) {
	value, ok := k.only(kindUUID)
	if !ok {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(value)
	return id, err == nil
}

// Time returns the moment that was given to the function Time, in UTC and cut to microseconds, and whether k was made by it.
func (k Key) Time() (time.Time, bool) { return k.when(kindTime, timeLayout) }

// Date returns the day that was given to the function Date, at midnight in UTC, and whether k was made by it.
func (k Key) Date() (time.Time, bool) { return k.when(kindDate, dateLayout) }

// Bytes returns what was given to the function Bytes, and whether k was made by it.
func (k Key) Bytes() ([]byte, bool) {
	value, ok := k.only(kindBytes)
	if !ok {
		return nil, false
	}
	b, err := hex.DecodeString(value)
	return b, err == nil
}

// only returns the value of a key of one part of this kind.
func (k Key) only(kind byte) (string, bool) {
	if k.len() != 1 || k.encoded[0] != kind {
		return "", false
	}
	return unescapeEncoded.Replace(k.encoded[2:]), true
}

func (k Key) when(kind byte, layout string) (time.Time, bool) {
	value, ok := k.only(kind)
	if !ok {
		return time.Time{}, false
	}
	t, err := time.Parse(layout, value)
	return t, err == nil && t.Year() > 0
}

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

// Validate says why k can't be used: it is empty, has an empty part, is longer than MaxKey when encoded, contains a NUL byte or
// invalid UTF-8, or has a year that can't be one. The error wraps ErrInvalidKey.
func (k Key) Validate() error {
	if k.encoded == "" {
		return fmt.Errorf("%w: it is empty; make one with guard.Text, Int, UUID, Time, Date, Bytes or Composite", ErrInvalidKey)
	}
	n := 0
	for kind, value := range k.parts() {
		n++
		if value == "" {
			return fmt.Errorf("%w: part %d is empty", ErrInvalidKey, n)
		}
		switch kind {
		case kindText:
			if err := sqltx.CheckText(value); err != nil {
				return fmt.Errorf("%w: part %d %w", ErrInvalidKey, n, err)
			}
		case kindTime, kindDate:
			layout := timeLayout
			if kind == kindDate {
				layout = dateLayout
			}
			if t, err := time.Parse(layout, value); err != nil || t.Year() < 1 {
				return fmt.Errorf("%w: part %d is %s: the years 1 to 9999 can be in a key", ErrInvalidKey, n, value)
			}
		}
	}
	if n := len(k.encoded); n > MaxKey {
		return fmt.Errorf("%w: it is %d bytes long when encoded, the limit is %d", ErrInvalidKey, n, MaxKey)
	}
	return nil
}

// open validates k, puts what statements take of it into c, and returns it as String does.
func (k Key) open(c *sqlplan.Call) (shown string, err error) {
	if err := k.Validate(); err != nil {
		return "", err
	}
	c.Key, c.Parts, c.Shape = k.encoded, k.appendArgs(c.Part[:0]), k.Shape()
	return k.String(), nil
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

// Args returns the key's parts as query arguments, in order: an int64 for Int, a []byte for Bytes, else a string, in which a
// time is as RFC 3339 has it, in UTC. A guard of your own passes them to its statements.
func (k Key) Args() []any { return k.appendArgs(make([]any, 0, k.len())) }

func (k Key) appendArgs(args []any) []any {
	for kind, value := range k.parts() {
		switch kind {
		case kindInt:
			n, _ := strconv.ParseInt(value, 10, 64) // Int wrote it
			args = append(args, n)
		case kindBytes:
			b, _ := hex.DecodeString(value) // Bytes wrote it
			args = append(args, b)
		default:
			args = append(args, value)
		}
	}
	return args
}
