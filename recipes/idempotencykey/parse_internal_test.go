package idempotencykey

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is taken is a string of printable characters, which is the same key however a client puts it; any other header is refused.
func FuzzParse(f *testing.F) {
	f.Add(`"8e03978e-40d5-43dd-bc93-6894a57f9324"`, "key")
	f.Add(` "a \"quoted\" \\ key" `, `"\`)
	f.Add(`"key";a=1`, "é\x00")
	f.Add(`"\"`, strings.Repeat("k", 254))
	f.Fuzz(func(t *testing.T, header, key string) {
		quoted := func(key string) string {
			return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
		}
		printable := func(key string) bool {
			return !strings.ContainsFunc(key, func(r rune) bool { return r < 0x20 || r > 0x7e })
		}
		if got, ok := parse([]string{header}); ok {
			require.NotEmpty(t, got)
			require.LessOrEqual(t, len(got), 253)
			require.True(t, printable(got), "%q", got)
			again, ok := parse([]string{quoted(got)})
			require.True(t, ok)
			require.Equal(t, got, again)
		}
		got, ok := parse([]string{quoted(key)})
		require.Equal(t, key != "" && printable(key) && len(quoted(key)) <= 255, ok, "%q", key)
		if ok {
			require.Equal(t, key, got)
		}
		_, ok = parse([]string{header, quoted(key)})
		require.False(t, ok, "two keys are none")
		_, ok = parse(nil)
		require.False(t, ok)
	})
}
