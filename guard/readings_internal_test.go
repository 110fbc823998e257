package guard

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// A key is found by what people are shown of it, and by its encoding; and whatever they write, the keys that it may mean are ones
// that can be looked up, few, and each different.
func FuzzReadings(f *testing.F) {
	f.Add("42", "a/b", int64(1), []byte("sixteen bytes ok"))
	f.Fuzz(func(t *testing.T, text, other string, n int64, raw []byte) {
		keys := []Key{Text(text), Int(n), Bytes(raw), Composite(Text(text), Int(n)), Composite(Int(n), Text(other)), Composite(Text(text), Text(other), Int(n))}
		if len(raw) == 16 {
			keys = append(keys, UUID([16]byte(raw)), Composite(UUID([16]byte(raw)), Text(other)))
		}
		for _, k := range keys {
			if k.Validate() != nil {
				continue
			}
			require.Contains(t, readings(k.Encode()), k, "as it is encoded")
			if k.Shape() != "b" { // bytes aren't told from text
				require.Contains(t, readings(k.String()), k, "as it is shown")
			}
			again := Composite(k.Parts()...)
			require.Equal(t, k, again)
			if s, ok := k.Text(); ok {
				require.Equal(t, k, Text(s))
			}
			if n, ok := k.Int(); ok {
				require.Equal(t, k, Int(n))
			}
			if b, ok := k.Bytes(); ok {
				require.Equal(t, k, Bytes(b))
			}
			if id, ok := k.UUID(); ok {
				require.Equal(t, k, UUID(id))
			}
		}
		for _, asked := range []string{text, other, text + "/" + other, "i:" + text, "u:" + other + "/t:" + text} {
			found := readings(asked)
			require.LessOrEqual(t, len(found), 3+16)
			for _, k := range found {
				require.NoError(t, k.Validate())
				_, _, _ = k.Args(), k.String(), k.Shape()
			}
			seen := slices.Clone(found)
			slices.SortFunc(seen, func(a, b Key) int {
				if a.encoded < b.encoded {
					return -1
				}
				return 1
			})
			require.Len(t, slices.Compact(seen), len(found), "%q: %v", asked, found)
		}
	})
}
