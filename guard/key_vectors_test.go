package guard_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
)

// Encoded keys are in ledgers, dedup keys and locks: were one of these to change, what is final would be open again.
func TestKeyGoldenVectors(t *testing.T) {
	id := uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	for encoded, key := range map[string]guard.Key{
		"t:a":                                    guard.Text("a"),
		"t:a%2Fb%23c%25d":                        guard.Text("a/b#c%d"),
		"t:Ünï ☃":                                guard.Text("Ünï ☃"),
		"i:0":                                    guard.Int(0),
		"i:42":                                   guard.Int(42),
		"i:-9223372036854775808":                 guard.Int(math.MinInt64),
		"u:6ba7b810-9dad-11d1-80b4-00c04fd430c8": guard.UUID(id),
		"s:2026-01-31T22:59:59.000000Z":          guard.Time(time.Date(2026, 1, 31, 23, 59, 59, 0, time.FixedZone("CET", 3600))),
		"s:2026-01-31T23:59:59.123456Z":          guard.Time(time.Date(2026, 1, 31, 23, 59, 59, 123456789, time.UTC)),
		"s:0001-01-01T00:00:00.000000Z":          guard.Time(time.Time{}),
		"d:2026-01-31":                           guard.Date(time.Date(2026, 1, 31, 23, 59, 59, 0, time.FixedZone("CET", 3600))),
		"d:0987-12-01":                           guard.Date(time.Date(987, 12, 1, 0, 0, 0, 0, time.UTC)),
		"b:00ff2f":                               guard.Bytes([]byte{0, 0xff, '/'}),
		"i:7/t:a%2Fb/s:2026-01-31T00:00:00.000001Z":  guard.Composite(guard.Int(7), guard.Text("a/b"), guard.Time(time.Date(2026, 1, 31, 0, 0, 0, 1000, time.UTC))),
		"u:6ba7b810-9dad-11d1-80b4-00c04fd430c8/i:1": guard.Composite(guard.UUID(id), guard.Composite(guard.Int(1))),
	} {
		require.Equal(t, encoded, key.Encode())
		require.NoError(t, key.Validate(), encoded)
	}
}

// A key gives back what it was made of, and nothing else.
func TestKeysHaveAWayBack(t *testing.T) {
	id := uuid.New()
	at := time.Date(2026, 1, 31, 23, 59, 59, 123456789, time.FixedZone("CET", 3600))
	text, number, ident, moment, day, bytes := guard.Text("50% a/b#c"), guard.Int(-7), guard.UUID(id), guard.Time(at), guard.Date(at), guard.Bytes([]byte{0, 0xff})
	all := guard.Composite(text, number, ident, moment, day, bytes)
	require.Equal(t, []guard.Key{text, number, ident, moment, day, bytes}, all.Parts())
	require.Equal(t, []guard.Key{text}, text.Parts())
	require.Empty(t, guard.Key{}.Parts())
	for i, key := range []guard.Key{text, number, ident, moment, day, bytes, all, {}} {
		s, ok := key.Text()
		require.Equal(t, i == 0, ok)
		n, ok := key.Int()
		require.Equal(t, i == 1, ok)
		u, ok := key.UUID()
		require.Equal(t, i == 2, ok)
		when, ok := key.Time()
		require.Equal(t, i == 3, ok)
		date, ok := key.Date()
		require.Equal(t, i == 4, ok)
		b, ok := key.Bytes()
		require.Equal(t, i == 5, ok)
		switch i {
		case 0:
			require.Equal(t, "50% a/b#c", s)
		case 1:
			require.EqualValues(t, -7, n)
		case 2:
			require.Equal(t, id, u)
		case 3:
			require.Equal(t, at.UTC().Truncate(time.Microsecond), when)
		case 4:
			require.Equal(t, time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC), date)
		case 5:
			require.Equal(t, []byte{0, 0xff}, b)
		}
	}
}
