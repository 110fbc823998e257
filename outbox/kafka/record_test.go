package kafka

import (
	"bytes"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What is read of any record, in either mode, can be sent, and is read again as the same.
func FuzzDecode(f *testing.F) {
	f.Add("ce_traceparent", "00-ab", "018f3b2e-0000-7000-8000-000000000001", "t", "2026-02-03t04:05:06z", "application/json", []byte("{}"))
	f.Fuzz(func(t *testing.T, name, value, id, eventType, at, content string, data []byte) {
		var headers []kgo.RecordHeader
		for _, h := range [][2]string{{"ce_specversion", "1.0"}, {"ce_id", id}, {"ce_source", "s"}, {"ce_type", eventType}, {"ce_time", at}, {"content-type", content}, {name, value}} {
			if h[1] != "" {
				headers = append(headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
			}
		}
		e, err := Decode(headers, data)
		if err != nil {
			require.ErrorIs(t, err, ErrNotEvent)
			return
		}
		r, err := record(e, "events", "s")
		require.NoError(t, err, "what was taken can be sent")
		again, err := Decode(r.Headers, r.Value)
		require.NoError(t, err)
		require.True(t, e.OccurredAt.Equal(again.OccurredAt))
		require.True(t, maps.Equal(e.Headers, again.Headers), "%q, %q", e.Headers, again.Headers)
		require.True(t, bytes.Equal(e.Payload, again.Payload))
		require.Equal(t, []any{e.ID, e.Type, e.AggregateID, e.AggregateType, e.ContentType}, []any{again.ID, again.Type, again.AggregateID, again.AggregateType, again.ContentType})
		require.LessOrEqual(t, wireSize(r), size(r), "a record isn't larger than the publisher takes it for")
	})
}

// wireSize is how long a record is in a batch of its own, apart from the batch's head, by Kafka's protocol: lengths and deltas are
// varints.
func wireSize(r *kgo.Record) int {
	varint := func(n int) (size int) {
		for n = n << 1; ; n >>= 7 {
			if size++; n < 0x80 {
				return size
			}
		}
	}
	n := 1 + 1 + 1 + varint(len(r.Key)) + len(r.Key) + varint(len(r.Value)) + len(r.Value) + varint(len(r.Headers))
	for _, h := range r.Headers {
		n += varint(len(h.Key)) + len(h.Key) + varint(len(h.Value)) + len(h.Value)
	}
	return n + varint(n)
}
