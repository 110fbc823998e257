package cloudevents

import (
	"fmt"
	"maps"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

func FuzzEscape(f *testing.F) {
	for _, seed := range []string{"", "a b", "100%", `"q"`, "é\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, err := Unescape(Escape(value))
		if !utf8.ValidString(value) {
			require.EqualError(t, err, "is not valid UTF-8")
			return
		}
		require.NoError(t, err)
		require.Equal(t, value, got)
	})
}

// What is read of any text can be written and read again as the same, if it can be written.
func FuzzParseStructured(f *testing.F) {
	f.Add(string(structured(f, event(), "s")))
	f.Fuzz(func(t *testing.T, text string) {
		e, err := ParseStructured([]byte(text))
		if err != nil {
			return
		}
		written, err := Structured(e, "s")
		require.NoError(t, err, "what was taken can be sent")
		requireSame(t, e, written)
	})
}

func requireSame(t *testing.T, e outbox.Event, written []byte) {
	t.Helper()
	again, err := ParseStructured(written)
	require.NoError(t, err)
	require.Equal(t, e.ID, again.ID)
	require.Equal(t, e.Type, again.Type)
	require.Equal(t, e.AggregateID, again.AggregateID)
	require.True(t, e.OccurredAt.Equal(again.OccurredAt))
	require.Equal(t, fmt.Sprintf("%q", e.Payload), fmt.Sprintf("%q", again.Payload))
	require.True(t, maps.Equal(e.Headers, again.Headers), "%q, %q", e.Headers, again.Headers)
}

// Binary mode: what is read of any headers can be written and read again as the same.
func FuzzFromAttributes(f *testing.F) {
	f.Add("018f3b2e-0000-7000-8000-000000000001", "s", "t", "2026-02-03t04:05:06z", "tracestate", "a=1%2C", `{"A":"\u00e9"}`, []byte("{}"))
	f.Add("evt_123", "https://pay.example.com", "%C3%A9", "", "a", "%ff", "", []byte{0})
	f.Fuzz(func(t *testing.T, id, source, eventType, at, name, value, headers string, data []byte) {
		attributes := map[string]string{}
		for name, value := range map[string]string{name: value, "specversion": "1.0", "id": id, "source": source, "type": eventType, "time": at, "headers": headers} {
			plain, err := Unescape(value)
			if err != nil {
				return
			}
			if attributes[name] = plain; plain == "" {
				delete(attributes, name)
			}
		}
		e, err := FromAttributes(attributes, data)
		if err != nil {
			return
		}
		all, err := Attributes(e, "s")
		require.NoError(t, err, "what was taken can be sent")
		again := map[string]string{}
		for _, a := range all {
			plain, err := Unescape(Escape(a.Value))
			require.NoError(t, err)
			again[a.Name] = plain
		}
		same, err := FromAttributes(again, data)
		require.NoError(t, err)
		require.Equal(t, e.ID, same.ID)
		require.True(t, e.OccurredAt.Equal(same.OccurredAt))
		require.True(t, maps.Equal(e.Headers, same.Headers), "%q, %q", e.Headers, same.Headers)
	})
}
