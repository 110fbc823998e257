package cloudevents

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// forbidden are characters that no attribute may have, and how JSON escapes them.
var forbidden = map[string]string{
	"\x00": `\u0000`, "\n": `\n`, "\x1f": `\u001f`, "\x7f": `\u007f`, "\u0080": `\u0080`, "\u009f": `\u009f`,
	"\ufdd0": `\ufdd0`, "\ufdef": `\ufdef`, "\ufffe": `\ufffe`, "\uffff": `\uffff`, "\U0001fffe": `\ud83f\udffe`, "\U0010ffff": `\udbff\udfff`,
}

// What CloudEvents forbids is neither sent nor taken: other libraries refuse it, or make something else of it.
func TestForbiddenCharacters(t *testing.T) {
	for c, escaped := range forbidden {
		for name, e := range map[string]outbox.Event{
			"type":            {ID: uuid.New(), Type: "t" + c},
			"subject":         {ID: uuid.New(), Type: "t", AggregateID: c},
			"aggregatetype":   {ID: uuid.New(), Type: "t", AggregateType: c},
			"datacontenttype": {ID: uuid.New(), Type: "t", ContentType: "text/plain" + c},
		} {
			_, err := Attributes(e, "s")
			require.ErrorContains(t, err, fmt.Sprintf("attribute %q contains U+", name))
			_, err = Structured(e, "s")
			require.ErrorContains(t, err, fmt.Sprintf("attribute %q contains U+", name))
		}
		// A header finds its way.
		e := outbox.Event{ID: uuid.New(), Type: "t", Headers: map[string]string{"tenant": c}, SchemaVersion: 1, Payload: []byte("{}")}
		got, err := ParseStructured(structured(t, e, "s"))
		require.NoError(t, err)
		require.Equal(t, e, got)

		_, err = FromAttributes(map[string]string{"specversion": "1.0", "id": e.ID.String(), "source": "s", "type": "t", "tenant": c}, nil)
		require.ErrorContains(t, err, `attribute "tenant" contains U+`)
		_, err = ParseStructured([]byte(`{"specversion":"1.0","id":"` + e.ID.String() + `","source":"s","type":"t` + escaped + `"}`))
		require.ErrorContains(t, err, `attribute "type" contains U+`)
	}
	_, err := Attributes(outbox.Event{ID: uuid.New(), Type: "\xff"}, "s")
	require.EqualError(t, err, `attribute "type" is not valid UTF-8`)
	_, err = Attributes(outbox.Event{ID: uuid.New(), Type: "t"}, "s\xff")
	require.EqualError(t, err, `attribute "source" is not valid UTF-8`)
}

// encoding/json makes U+FFFD of what isn't Unicode, so that two keys become one.
func TestWhatIsNotUnicodeIsRefused(t *testing.T) {
	const least = `{"specversion":"1.0","id":"018f3b2e-0000-7000-8000-000000000001","source":"s","type":"t"`
	for members, message := range map[string]string{
		`,"subject":"\ud800"`:                             `attribute "subject" is not valid Unicode`,
		`,"subject":"\udc00\ud800"`:                       `attribute "subject" is not valid Unicode`,
		`,"tenant":"a\ud83dz"`:                            `attribute "tenant" is not valid Unicode`,
		`,"headers":"{\"a\":\"\\ud800\"}"`:                "headers is not a JSON object of strings",
		`,"datacontenttype":"text/plain","data":"\udead"`: "data is not valid Unicode",
		",\"subject\":\"\xff\"":                           "the body is not valid UTF-8",
		",\"data\":\"\xff\"":                              "the body is not valid UTF-8",
	} {
		_, err := ParseStructured([]byte(least + members + "}"))
		require.EqualError(t, err, message, members)
	}
	e, err := ParseStructured([]byte(least + `,"data":"\ud800"}`))
	require.NoError(t, err)
	require.Equal(t, `"\ud800"`, string(e.Payload), "JSON data is bytes, and the consumer's to read")
}

// Others name their events in their own way. The id is derived from source and id, and stays the same through our brokers.
func TestAnIDOfAnotherKind(t *testing.T) {
	read := func(source, id string) outbox.Event {
		e, err := ParseStructured(fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":%q,"type":"invoice.paid","data":{}}`, id, source))
		require.NoError(t, err)
		return e
	}
	e := read("https://pay.example.com", "evt_123")
	require.Equal(t, uuid.MustParse("c830e67f-2c7e-5c4f-8dca-5c9705d00d37"), e.ID, "it outlives a process: consumers know repeats by it")
	require.Equal(t, map[string]string{OriginalID: "evt_123"}, e.Headers)
	require.Equal(t, e, read("https://pay.example.com", "evt_123"))
	for _, other := range []outbox.Event{read("https://pay.example.com", "evt_124"), read("https://pay.example.org", "evt_123"), read("https://pay.example.com", uuid.Nil.String())} {
		require.NotEqual(t, e.ID, other.ID)
		require.NotEqual(t, uuid.Nil, other.ID)
	}
	again, err := ParseStructured(structured(t, e, "/orders"))
	require.NoError(t, err)
	require.Equal(t, e, again)
}
