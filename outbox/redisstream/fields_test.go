package redisstream

import (
	"encoding/json"
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
	e, err := Decode(with(FieldOccurredAt, "2026-02-03t04:05:06z"))
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC), e.OccurredAt)
	_, err = Decode(with(FieldHeaders, `{"a":"\ud800"}`))
	require.ErrorIs(t, err, ErrNotEvent, "half a surrogate pair")
	for message, values := range map[string]map[string]any{
		`redisstream: not an event: field "id" is missing`:                           with(FieldID, nil),
		`redisstream: not an event: field "type" is missing`:                         with(FieldType, nil),
		`redisstream: not an event: field "payload" is missing`:                      with(FieldPayload, nil),
		`redisstream: not an event: field "id" is no UUID`:                           with(FieldID, "1526919030474-0"),
		`redisstream: not an event: field "schema_version" is "0"`:                   with(FieldSchemaVersion, "0"),
		`redisstream: not an event: field "occurred_at" is not in RFC 3339's format`: with(FieldOccurredAt, "now"),
		`redisstream: not an event: field "headers" is not a JSON object of strings`: with(FieldHeaders, `{"a":1}`),
		`redisstream: not an event: field "type" is not valid UTF-8`:                 with(FieldType, "\xff"),
		`redisstream: not an event: field "their" is not valid UTF-8`:                with("their", "\xff"),
		`redisstream: not an event: field "type" is a int, not a string`:             with(FieldType, 1),
	} {
		e, err := Decode(values)
		require.EqualError(t, err, message)
		require.ErrorIs(t, err, ErrNotEvent)
		require.Zero(t, e)
	}
}

// What is read of any fields can be written and read again as the same.
func FuzzDecode(f *testing.F) {
	f.Add("018f3b2e-0000-7000-8000-000000000001", "t", "batch", "batch-1", "2026-02-03t04:05:06.5z", "7", `{"traceparent":"00-ab"}`, "{}")
	f.Add("{018f3b2e-0000-7000-8000-000000000001}", "\xff", "", "", "2026-02-03T04:05:06+01:00", "0", `{"a":"\ud800"}`, "\x00\xff")
	f.Fuzz(func(t *testing.T, id, eventType, aggregateType, aggregateID, at, version, headers, payload string) {
		fields := map[string]any{FieldID: id, FieldType: eventType, FieldAggregateType: aggregateType, FieldAggregateID: aggregateID, FieldPayload: payload}
		for name, value := range map[string]string{FieldOccurredAt: at, FieldSchemaVersion: version, FieldHeaders: headers} {
			if value != "" {
				fields[name] = value
			}
		}
		e, err := Decode(fields)
		if err != nil {
			require.ErrorIs(t, err, ErrNotEvent)
			return
		}
		written := values(e)
		if h, ok := written[FieldHeaders].(string); ok {
			require.True(t, json.Valid([]byte(h)))
		}
		again, err := Decode(written)
		require.NoError(t, err)
		require.True(t, e.OccurredAt.Equal(again.OccurredAt))
		require.True(t, maps.Equal(e.Headers, again.Headers))
		e.OccurredAt, e.Headers, again.OccurredAt, again.Headers = time.Time{}, nil, time.Time{}, nil
		require.Equal(t, e, again)
	})
}
