package strictjson

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatIsNotUnicodeIsRefused(t *testing.T) {
	for text, want := range map[string]error{
		`"plain é 😀"`:           nil,
		`"\u00e9 \ud83d\ude00"`: nil,
		`"\\ud800"`:             nil, // a backslash, and text
		`"\\\\ud800"`:           nil,
		`"\ufffd"`:              nil,
		`"\ud800"`:              ErrNotUnicode,
		`"\udc00"`:              ErrNotUnicode,
		`"\ud800\ud800"`:        ErrNotUnicode,
		`"\ud800\n"`:            ErrNotUnicode,
		`"\ud800 \udc00"`:       ErrNotUnicode,
		`"\\\ud800"`:            ErrNotUnicode,
		`"\uDBFF\u0041"`:        ErrNotUnicode,
		"\"\xff\"":              ErrNotUnicode,
	} {
		var s string
		require.Equal(t, want, Unmarshal([]byte(text), &s), "%s", text)
	}
	var s string
	require.Error(t, Unmarshal([]byte(`{`), &s))
}

// What passes is what a text says: encoding/json has replaced nothing, so writing and reading it again changes nothing.
func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`"\ud83d\ude00"`))
	f.Add([]byte(`"\ud800"`))
	f.Add([]byte(`"\\ud800\udc00"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var s string
		if Unmarshal(text, &s) != nil {
			return
		}
		again, err := json.Marshal(s)
		require.NoError(t, err)
		var same string
		require.NoError(t, Unmarshal(again, &same))
		require.Equal(t, s, same)
	})
}
