package cloudevents

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

func event() outbox.Event {
	return outbox.Event{
		ID: uuid.New(), AggregateType: "batch", AggregateID: `i:1/t:a'b "ü" 100%`, Type: "assessment.completed", Payload: []byte(`{ "b":1, "a":2,"b" : 3 }`),
		ContentType: "application/json", OccurredAt: time.Date(2026, 2, 3, 4, 5, 6, 123456000, time.UTC), SchemaVersion: 7,
	}
}

func structured(t testing.TB, e outbox.Event, source string) []byte {
	t.Helper()
	text, err := Structured(e, source)
	require.NoError(t, err)
	return text
}

func attributesOf(t testing.TB, e outbox.Event) []Attribute {
	t.Helper()
	all, err := Attributes(e, "/orders")
	require.NoError(t, err)
	return all
}

// payloads are such as a format might change.
var payloads = map[string]outbox.Event{
	"keys twice, and ordered": {Payload: []byte(`{ "b":1, "a":2,"b" : 3 }`)},
	"space around":            {Payload: []byte("\n {} ")},
	"null":                    {Payload: []byte("null")},
	"text":                    {Payload: []byte(`"<&> \u0000"`)},
	"lone surrogate":          {Payload: []byte(`["\ud800", "\udead"]`)},
	"numbers":                 {Payload: []byte(`[1e400, 0.10, 123456789012345678901234567890, -0]`)},
	"not JSON at all":         {Payload: []byte(`1,"id":"x"`)},
	"half of two":             {Payload: []byte(`1}],"a":[{`)},
	"not UTF-8":               {Payload: []byte("\"\xff\"")},
	"as deep as parsers go":   {Payload: []byte(strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000))},
	"plain":                   {ContentType: "text/plain", Payload: []byte("plain")},
	"JSON in a text":          {ContentType: "text/plain; charset=utf-8", Payload: []byte(`"a"`)},
	"binary":                  {ContentType: "application/octet-stream", Payload: []byte("\x00\xff\n")},
	"empty":                   {ContentType: "text/plain", Payload: []byte{}},
	"no content type":         {ContentType: "none", Payload: []byte(`{}`)},
	"vendor JSON":             {ContentType: "application/vnd.acme+json; charset=utf-8", Payload: []byte("[ ]")},
}

// headerSets are such as a transport might change.
var headerSets = map[string]map[string]string{
	"none":      nil,
	"trace":     {"traceparent": "00-ab-cd-01", "tracestate": "a=1, b=2"},
	"others":    {"X-Tenant": "7", "": "empty key", "empty": "", `quo"te\`: "<&> é \u2028 😀 '", "control": "a\r\nb\t\u007f\u0085", "a-very-long-name-indeed": "x"},
	"reserved":  {"id": "1", "type": "2", "data": "3", "headers": "4", "time": "5", "dataschema": "6", "specversion": "7"},
	"unchanged": {"percent": "%41 100%", "quoted": `"a\"b"`, "spaces": " a ", "unicode": "日本語"},
}

func TestStructuredIsRead(t *testing.T) {
	for name, p := range payloads {
		t.Run(name, func(t *testing.T) {
			e := event()
			e.Payload = p.Payload
			if p.ContentType != "" {
				e.ContentType = p.ContentType
			}
			text := structured(t, e, "/orders")
			require.True(t, json.Valid(text), "%s", text)
			got, err := ParseStructured(text)
			require.NoError(t, err)
			require.Equal(t, e, got)
		})
	}
	for name, h := range headerSets {
		t.Run("headers "+name, func(t *testing.T) {
			e := event()
			e.Headers = h
			got, err := ParseStructured(structured(t, e, "/orders"))
			require.NoError(t, err)
			require.Equal(t, e, got)
		})
	}
}

func TestAttributesAreRead(t *testing.T) {
	for name, h := range headerSets {
		t.Run("headers "+name, func(t *testing.T) {
			e := event()
			e.Headers = h
			attributes := map[string]string{}
			for _, a := range attributesOf(t, e) {
				require.Regexp(t, `^[a-z0-9]{1,20}$`, a.Name)
				escaped := Escape(a.Value)
				require.Regexp(t, `^[!-~]+$`, escaped)
				value, err := Unescape(escaped)
				require.NoError(t, err)
				require.Equal(t, a.Value, value)
				attributes[a.Name] = value
			}
			got, err := FromAttributes(attributes, e.Payload)
			require.NoError(t, err)
			require.Equal(t, e, got)
		})
	}
}

func TestStructuredIsReadableByOthers(t *testing.T) {
	e := event()
	e.Headers = map[string]string{"traceparent": "00-ab-cd-01", "X-Tenant": "é"}
	require.Equal(t, `{"specversion":"1.0","id":"`+e.ID.String()+`","source":"/orders","type":"assessment.completed",`+
		`"subject":"i:1/t:a'b \"ü\" 100%","time":"2026-02-03T04:05:06.123456Z","datacontenttype":"application/json",`+
		`"aggregatetype":"batch","schemaversion":7,"traceparent":"00-ab-cd-01","headers":"{\"X-Tenant\":\"\\u00e9\"}",`+
		`"data":{ "b":1, "a":2,"b" : 3 }}`, string(structured(t, e, "/orders")))
	e = outbox.Event{ID: e.ID, Type: "t", ContentType: "text/plain", Payload: []byte("<>")}
	require.Equal(t, `{"specversion":"1.0","id":"`+e.ID.String()+`","source":"s","type":"t","datacontenttype":"text/plain",`+
		`"schemaversion":1,"data_base64":"`+base64.StdEncoding.EncodeToString([]byte("<>"))+`"}`, string(structured(t, e, "s")))
}

// What other producers may send.
func TestParseStructuredOfOthers(t *testing.T) {
	const least = `"specversion":"1.0","id":"018f3b2e-0000-7000-8000-000000000001","source":"s","type":"t"`
	for members, want := range map[string]outbox.Event{
		``:                                    {},
		`,"data":null`:                        {Payload: []byte("null")},
		`,"data": [ 1 ] `:                     {Payload: []byte("[ 1 ]")},
		`,"data_base64":"AAE="`:               {Payload: []byte{0, 1}},
		`,"datacontenttype":"a/b","data":"x"`: {ContentType: "a/b", Payload: []byte("x")},
		`,"datacontenttype":"a/b","data":[]`:  {ContentType: "a/b", Payload: []byte("[]")},
		`,"flag":true,"count":3,"none":null`:  {Headers: map[string]string{"flag": "true", "count": "3"}},
		`,"schemaversion":"2"`:                {SchemaVersion: 2},
		`,"time":"2026-02-03T04:05:06Z"`:      {OccurredAt: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)},
		`,"time":"2026-02-03t04:05:06.5z"`:    {OccurredAt: time.Date(2026, 2, 3, 4, 5, 6, 5e8, time.UTC)},
		`,"subject":"\ud83d\ude00 \\ud800"`:   {AggregateID: `😀 \ud800`},
	} {
		want.ID, want.Type, want.SchemaVersion = uuid.MustParse("018f3b2e-0000-7000-8000-000000000001"), "t", max(want.SchemaVersion, 1)
		got, err := ParseStructured([]byte("{" + least + members + "}"))
		require.NoError(t, err, members)
		require.Equal(t, want, got, members)
	}
	for members, message := range map[string]string{
		``:                                 "", // the base is right; each of the following replaces or adds
		`,"specversion":"0.3"`:             `specversion is "0.3", not 1.0`,
		`,"id":""`:                         "id is missing",
		`,"id":null`:                       "id is missing",
		`,"source":""`:                     "source is missing",
		`,"type":""`:                       "type is missing",
		`,"time":"yesterday"`:              `time "yesterday" is not in RFC 3339's format`,
		`,"schemaversion":0`:               `schemaversion "0" is no version`,
		`,"schemaversion":1.5`:             `schemaversion "1.5" is no version`,
		`,"headers":"[]"`:                  "headers is not a JSON object of strings",
		`,"x":{}`:                          `attribute "x" is neither text, number nor boolean`,
		`,"data":1,"data_base64":"AAE="`:   "there are both data and data_base64",
		`,"data_base64":"%"`:               "data_base64 is not in base64",
		`,"data_base64":1`:                 "data_base64 is not in base64",
		`,`:                                "the body is not a JSON object",
		"}" + strings.Repeat("[", 100_000): "the body is not a JSON object",
	} {
		_, err := ParseStructured([]byte("{" + least + members + "}"))
		if message == "" {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, message, members)
		}
	}
}

func TestUnescape(t *testing.T) {
	for value, want := range map[string]string{
		"":                     "",
		"plain+plus":           "plain+plus",
		"Euro%20%E2%82%AC":     "Euro €",
		`"a b"`:                "a b",
		`"a \"b\" \\ %41"`:     `a "b" \ A`,
		`"`:                    `"`,
		"%e2%82%ac":            "€",
		"not%2520twice":        "not%20twice",
		`half"quoted`:          `half"quoted`,
		"trailing backslash\\": "trailing backslash\\",
	} {
		got, err := Unescape(value)
		require.NoError(t, err, value)
		require.Equal(t, want, got, value)
	}
	for _, value := range []string{"%", "100%", "%4", "%zz"} {
		_, err := Unescape(value)
		require.EqualError(t, err, "is not percent-encoded as CloudEvents asks", value)
	}
	for _, value := range []string{"%FF", "%C3", "%ED%A0%80", "%C0%80", "\xff", `"%ff"`} {
		_, err := Unescape(value)
		require.EqualError(t, err, "is not valid UTF-8", value)
	}
}
