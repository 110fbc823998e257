package finalize

import (
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// Digests stand in ledgers: were one to change, a repeat of the winner's own outcome would differ from it.
func TestDigestGoldenVectors(t *testing.T) {
	for want, out := range map[string]Outcome{
		"989c10e9cdfebf3bff5b084a98d2c975ea516ac44084145713f5be86f5386c27": {State: "COMPLETE_STABLE"},
		"3918906ce846f6b3d7e24ec1c6df4c553f257295172723df7ab4f00983cd7167": {State: "COMPLETE_STABLE", Events: []outbox.Event{
			{AggregateType: "batch", AggregateID: "b1", Type: "assessment.completed", ContentType: "application/json", SchemaVersion: 1, DedupKey: "batch/t:b1#assessment.completed", Payload: []byte(`{"id":"b1"}`)}}},
		"17cdd34a99d08855870ce08d48d3f2f3577d8a539213364373187f80a2cbd68f": {State: "ERROR", Events: []outbox.Event{
			{AggregateType: "batch", AggregateID: "b1", Type: "failed", ContentType: "text/plain", SchemaVersion: 300, Headers: map[string]string{"b": "2", "a": "Ünï ☃"}, Payload: []byte{0, 0xff}},
			{AggregateType: "batch", AggregateID: "b1", Type: "credited", ContentType: "application/json", SchemaVersion: 2, DedupKey: "k", Payload: nil}}},
	} {
		require.Equal(t, want, hex.EncodeToString(digest(out.State, out.Events, out.Events)))
	}
}

// Default dedup keys stand in outboxes: were one to change, an event would go out a second time.
func TestDefaultDedupKeyGoldenVectors(t *testing.T) {
	for want, key := range map[string]guard.Key{
		"batch/t:b1#assessment.completed":             guard.Text("b1"),
		"batch/t:50%25 %231%2Fa#assessment.completed": guard.Text("50% #1/a"),
		"batch/i:7/t:a#assessment.completed":          guard.Composite(guard.Int(7), guard.Text("a")),
	} {
		a := &attempt{ref: guard.Ref{Aggregate: "batch", Key: key}}
		a.Aggregate, a.Key = "batch", key.Encode()
		require.Equal(t, want, dedupKey(a, "assessment.completed"))
	}
}
