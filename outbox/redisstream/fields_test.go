package redisstream

import (
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// values are an event's fields as a consumer has them.
func values(e outbox.Event) map[string]any {
	fields, m := Encode(e), map[string]any{}
	for i := 0; i < len(fields); i += 2 {
		switch v := fields[i+1].(type) {
		case []byte:
			m[fields[i].(string)] = string(v)
		default:
			m[fields[i].(string)] = v
		}
	}
	return m
}

func TestDecodeReturnsWhatWasEncoded(t *testing.T) {
	for name, e := range map[string]outbox.Event{
		"all": {
			ID: uuid.New(), AggregateType: `batch "x"`, AggregateID: "i:1/t:a'b", Type: "assessment.completed", Payload: []byte{0, 0xff, '\r', '\n'},
			ContentType: "application/octet-stream", Headers: map[string]string{"traceparent": "00-ab-cd-01", "": "<&> é \u2028"},
			OccurredAt: time.Date(2026, 2, 3, 4, 5, 6, 123456000, time.UTC), SchemaVersion: 7,
		},
		"least": {ID: uuid.New(), Type: "t", Payload: []byte{}, SchemaVersion: 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decode(values(e))
			require.NoError(t, err)
			require.Equal(t, e, got)
		})
	}
}

func TestDecodeTellsWhatIsWrong(t *testing.T) {
	right := values(outbox.Event{ID: uuid.New(), Type: "t"})
	with := func(name string, value any) map[string]any {
		m := maps.Clone(right)
		if m[name] = value; value == nil {
			delete(m, name)
		}
		return m
	}
	_, err := Decode(with("their_own", "ignored"))
	require.NoError(t, err)
	for message, values := range map[string]map[string]any{
		`redisstream: not an event: field "id" is missing`:                           with(FieldID, nil),
		`redisstream: not an event: field "type" is missing`:                         with(FieldType, nil),
		`redisstream: not an event: field "payload" is missing`:                      with(FieldPayload, nil),
		`redisstream: not an event: field "id" is no UUID`:                           with(FieldID, "1526919030474-0"),
		`redisstream: not an event: field "schema_version" is "0"`:                   with(FieldSchemaVersion, "0"),
		`redisstream: not an event: field "occurred_at" is not in RFC 3339's format`: with(FieldOccurredAt, "now"),
		`redisstream: not an event: field "headers" is not a JSON object of strings`: with(FieldHeaders, `{"a":1}`),
		`redisstream: not an event: field "type" is a int, not a string`:             with(FieldType, 1),
	} {
		e, err := Decode(values)
		require.EqualError(t, err, message)
		require.ErrorIs(t, err, ErrNotEvent)
		require.Zero(t, e)
	}
}
