package guard_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
)

func TestKeyEncoding(t *testing.T) {
	id := uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	for _, tt := range []struct {
		key             guard.Key
		encoded, string string
	}{
		{guard.Text("a"), "t:a", "a"},
		{guard.Text("a/b#c%d"), "t:a%2Fb%23c%25d", "a/b#c%d"},
		{guard.Text("i:1"), "t:i:1", "i:1"},
		{guard.Int(42), "i:42", "42"},
		{guard.Int(math.MinInt64), "i:-9223372036854775808", "-9223372036854775808"},
		{guard.UUID(id), "u:" + id.String(), id.String()},
		{guard.Composite(guard.Int(1), guard.Text("a/b")), "i:1/t:a%2Fb", "1/a%2Fb"},
		{guard.Composite(guard.UUID(id), guard.Int(-7)), "u:" + id.String() + "/i:-7", id.String() + "/-7"},
	} {
		require.Equal(t, tt.encoded, tt.key.Encode())
		require.Equal(t, tt.string, tt.key.String())
		require.NoError(t, tt.key.Validate())
	}
}

func TestKeysOfDifferentKindsDiffer(t *testing.T) {
	id := "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	parsed, err := guard.ParseUUID(id)
	require.NoError(t, err)
	require.NotEqual(t, guard.Text("1").Encode(), guard.Int(1).Encode())
	require.NotEqual(t, guard.Text(id).Encode(), parsed.Encode())
	require.NotEqual(t, guard.Text("a/b").Encode(), guard.Composite(guard.Text("a"), guard.Text("b")).Encode())
	require.NotEqual(t, guard.Text("a/t:b").Encode(), guard.Composite(guard.Text("a"), guard.Text("b")).Encode())
	require.NotEqual(t, guard.Composite(guard.Text("a/t:b"), guard.Text("c")).Encode(), guard.Composite(guard.Text("a"), guard.Text("b/t:c")).Encode())
	require.NotEqual(t, guard.Composite(guard.Int(1), guard.Int(23)).Encode(), guard.Composite(guard.Int(12), guard.Int(3)).Encode())
	require.Equal(t, guard.Composite(guard.Int(1), guard.Int(2), guard.Int(3)).Encode(),
		guard.Composite(guard.Composite(guard.Int(1), guard.Int(2)), guard.Int(3)).Encode(), "nested composites are flattened")
}

func TestSpellingsOfOneUUIDAreOneKey(t *testing.T) {
	const canonical = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	for _, spelling := range []string{
		canonical, strings.ToUpper(canonical), "{" + canonical + "}", "urn:uuid:" + canonical, strings.ReplaceAll(canonical, "-", ""),
	} {
		key, err := guard.ParseUUID(spelling)
		require.NoError(t, err, spelling)
		require.Equal(t, "u:"+canonical, key.Encode(), spelling)
		require.Equal(t, []any{canonical}, key.Args(), spelling)
	}
	for _, bad := range []string{"", "batch-1", canonical[1:], canonical + "0"} {
		_, err := guard.ParseUUID(bad)
		require.ErrorIs(t, err, guard.ErrInvalidKey, bad)
	}
}

func TestKeyValidateNamesWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name, says string
		key        guard.Key
	}{
		{"zero", "is empty", guard.Key{}},
		{"no parts", "is empty", guard.Composite()},
		{"no bytes", "part 1 is empty", guard.Bytes(nil)},
		{"a time before our era", "the years 1 to 9999", guard.Time(time.Date(-43, 3, 15, 0, 0, 0, 0, time.UTC))},
		{"a time that is in the year 10000 in UTC", "the years 1 to 9999", guard.Time(time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -7200)))},
		{"a date after 9999", "part 2 is", guard.Composite(guard.Int(1), guard.Date(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)))},
		{"a part that was forgotten", "is empty", guard.Composite(guard.Key{}, guard.Int(1))},
		{"empty text", "part 1 is empty", guard.Text("")},
		{"empty part", "part 2 is empty", guard.Composite(guard.Int(1), guard.Text(""))},
		{"NUL", "part 1 contains a NUL byte", guard.Text("a\x00b")},
		{"invalid UTF-8", "part 2 is not valid UTF-8", guard.Composite(guard.Text("a"), guard.Text("\xff"))},
		{"too long", "1001 bytes long when encoded, the limit is 1000", guard.Text(strings.Repeat("x", 999))},
		{"too long when escaped", "the limit is 1000", guard.Text(strings.Repeat("/", 333))},
		{"10 KiB", "the limit is 1000", guard.Text(strings.Repeat("x", 10<<10))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.key.Validate()
			require.ErrorIs(t, err, guard.ErrInvalidKey)
			require.ErrorContains(t, err, tt.says)
			require.NotContains(t, err.Error(), strings.Repeat("x", 100), "the key itself is not repeated")
		})
	}
	require.NoError(t, guard.Text(strings.Repeat("x", 998)).Validate(), "the longest")
	require.NoError(t, guard.Int(0).Validate())
	require.NoError(t, guard.UUID(uuid.Nil).Validate())
	require.NoError(t, guard.Text(" ").Validate())
}

// keyOf builds a key from raw parts: texts, and numbers where the text is empty.
func keyOf(texts []string, number int64) guard.Key {
	parts := make([]guard.Key, len(texts))
	for i, s := range texts {
		switch {
		case s == "":
			parts[i] = guard.Int(number)
		case len(s) == 16:
			parts[i] = guard.UUID(uuid.UUID([]byte(s)))
		default:
			parts[i] = guard.Text(s)
		}
	}
	return guard.Composite(parts...)
}

// decode undoes Encode. That it can is why Encode is injective.
func decode(encoded string) (shape string, values []string, err error) {
	unescape := strings.NewReplacer("%25", "%", "%2F", "/", "%23", "#")
	for part := range strings.SplitSeq(encoded, "/") {
		kind, value, found := strings.Cut(part, ":")
		if !found || len(kind) != 1 {
			return "", nil, errors.New("no kind: " + part)
		}
		shape += kind
		values = append(values, unescape.Replace(value))
	}
	return shape, values, nil
}

// requireInjective checks that a key's parts, as keyOf was given them, can be read back from its encoding.
func requireInjective(t *testing.T, key guard.Key, texts []string, number int64) {
	t.Helper()
	want := make([]any, len(texts))
	for i, s := range texts {
		switch {
		case s == "":
			want[i] = number
		case len(s) == 16:
			want[i] = uuid.UUID([]byte(s)).String()
		default:
			want[i] = s
		}
	}
	require.Equal(t, want, key.Args())
	shape, values, err := decode(key.Encode())
	require.NoError(t, err)
	require.Equal(t, key.Shape(), shape)
	require.Len(t, values, len(key.Args()))
	for i, arg := range key.Args() {
		if shape[i] == 'i' {
			require.Equal(t, guard.Int(arg.(int64)).String(), values[i])
		} else {
			require.Equal(t, arg, values[i])
		}
	}
	require.NotContains(t, key.Encode(), "#", "what ends a key in a dedup key")
}

// F23: no two keys are the same to the database.
func TestKeyEncodingIsInjective(t *testing.T) {
	require.NoError(t, quick.Check(func(texts []string, number int64) bool {
		if len(texts) > 0 {
			requireInjective(t, keyOf(texts, number), texts, number)
		}
		return true
	}, &quick.Config{MaxCount: 500}))
	// Short keys over an alphabet of the encoding's own characters: all pairs.
	seen := map[guard.Key][]string{}
	var texts []string
	for _, a := range []string{"", "/", "%", "#", ":", "t", "i", "2F", "%2F", "1"} {
		for _, b := range []string{"/", "%", "#", ":", "t:", "/t:", "25", "1"} {
			texts = append(texts, a+b)
		}
	}
	add := func(k guard.Key, parts ...string) {
		other, taken := seen[k]
		require.False(t, taken && !slices.Equal(other, parts), "%q and %q are both %q", parts, other, k.Encode())
		seen[k] = parts
	}
	for _, a := range texts {
		add(guard.Text(a), "text", a)
		for _, b := range texts {
			add(guard.Composite(guard.Text(a), guard.Text(b)), "text", a, "text", b)
			add(guard.Composite(guard.Int(1), guard.Text(a+b)), "int", "1", "text", a+b)
		}
	}
}

func FuzzKey(f *testing.F) {
	f.Add("a", "b", int64(1))
	f.Add("a/t:b", "%2F", int64(-1))
	f.Add("", "sixteen bytes ok", int64(0))
	f.Add("\x00", "\xff", int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, a, b string, n int64) {
		one, two := keyOf([]string{a, b}, n), keyOf([]string{a + "/" + b}, n)
		requireInjective(t, one, []string{a, b}, n)
		requireInjective(t, two, []string{a + "/" + b}, n)
		if one.Shape() != two.Shape() {
			require.NotEqual(t, one.Encode(), two.Encode())
		}
		err := one.Validate()
		if err == nil {
			require.LessOrEqual(t, len(one.Encode()), guard.MaxKey)
			require.NotContains(t, one.Encode(), "\x00")
		} else {
			require.ErrorIs(t, err, guard.ErrInvalidKey)
		}
		if k, err := guard.ParseUUID(a); err == nil {
			again, err := guard.ParseUUID(k.String())
			require.NoError(t, err)
			require.Equal(t, k, again)
		} else {
			require.ErrorIs(t, err, guard.ErrInvalidKey)
		}
	})
}
