package outboxwatermill_test

import (
	"context"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/outboxwatermill"
)

func whole() outbox.Event {
	return outbox.Event{
		ID: uuid.MustParse("0193a5c0-7c3f-7000-8000-000000000001"), AggregateType: "batch", AggregateID: "b1", Type: "assessment.completed",
		Payload: []byte(`{"n":1}`), ContentType: "application/json", SchemaVersion: 7, OccurredAt: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		Headers: map[string]string{"traceparent": "00-ab-cd-01", "X-Tenant": "é", "two words": "x", "name": "n", "endstate_x": "y", "_watermill_message_uuid": "z", "lines": "a\r\nb", "": "empty"},
	}
}

// What is in a message outlives a version: consumers read it.
func TestAMessageIsAsItWas(t *testing.T) {
	msg, err := outboxwatermill.Encode(whole())
	require.NoError(t, err)
	require.Equal(t, "0193a5c0-7c3f-7000-8000-000000000001", msg.UUID)
	require.Equal(t, message.Payload(`{"n":1}`), msg.Payload)
	require.Equal(t, message.Metadata{
		"name": "assessment.completed", "endstate_aggregate_type": "batch", "endstate_aggregate_id": "b1", "endstate_content_type": "application/json",
		"endstate_schema_version": "7", "endstate_occurred_at": "2026-01-02T03:04:05.000006Z", "traceparent": "00-ab-cd-01", "X-Tenant": "é",
		"endstate_headers": `{"":"empty","_watermill_message_uuid":"z","endstate_x":"y","lines":"a\r\nb","name":"n","two words":"x"}`,
	}, msg.Metadata)
	got, err := outboxwatermill.Decode(msg)
	require.NoError(t, err)
	require.Equal(t, whole(), got)
	event := whole()
	shared, err := outboxwatermill.Encode(event)
	require.NoError(t, err)
	shared.Payload[0] = 'x'
	require.Equal(t, whole(), event, "a middleware that writes into a message changes no event")
	key, err := outboxwatermill.PartitionKey("any", msg)
	require.NoError(t, err)
	require.Equal(t, "batch/b1", key)
}

// What is read of any message can be sent, and is read again as the same; and what is said of one that is none has no part of it.
func FuzzDecode(f *testing.F) {
	f.Add("018f3b2e-0000-7000-8000-000000000001", "t", "batch", "b1", "1", "2026-02-03t04:05:06z", `{"two words":"x"}`, "traceparent", "00-ab", []byte("{}"))
	f.Fuzz(func(t *testing.T, id, eventType, kind, aggregate, version, at, headers, name, value string, payload []byte) {
		msg := message.NewMessage(id, payload)
		for _, m := range [][2]string{{name, value}, {"name", eventType}, {"endstate_aggregate_type", kind}, {"endstate_aggregate_id", aggregate}, {"endstate_schema_version", version}, {"endstate_occurred_at", at}, {"endstate_headers", headers}} {
			if m[1] != "" {
				msg.Metadata.Set(m[0], m[1])
			}
		}
		e, err := outboxwatermill.Decode(msg)
		if err != nil {
			require.ErrorIs(t, err, outboxwatermill.ErrNotEvent)
			return
		}
		for name, value := range e.Headers {
			if !utf8.ValidString(name + value) {
				return // no outbox takes it
			}
		}
		sent, err := outboxwatermill.Encode(e)
		if err != nil {
			require.ErrorIs(t, err, outbox.ErrPermanent)
			return
		}
		again, err := outboxwatermill.Decode(sent)
		require.NoError(t, err)
		require.True(t, e.OccurredAt.Equal(again.OccurredAt))
		e.OccurredAt = again.OccurredAt // whatever its location
		require.Equal(t, e, again)
	})
}

func TestWhatIsNoEvent(t *testing.T) {
	for field, spoil := range map[string]func(*message.Message){
		"UUID":                             func(m *message.Message) { m.UUID = "1" },
		"metadata name":                    func(m *message.Message) { delete(m.Metadata, "name") },
		"metadata endstate_aggregate_type": func(m *message.Message) { delete(m.Metadata, "endstate_aggregate_type") },
		"metadata endstate_aggregate_id":   func(m *message.Message) { delete(m.Metadata, "endstate_aggregate_id") },
		"metadata endstate_schema_version": func(m *message.Message) { m.Metadata["endstate_schema_version"] = "x" },
		"metadata endstate_occurred_at":    func(m *message.Message) { m.Metadata["endstate_occurred_at"] = "x" },
		"metadata endstate_headers":        func(m *message.Message) { m.Metadata["endstate_headers"] = "x" },
	} {
		msg, err := outboxwatermill.Encode(whole())
		require.NoError(t, err)
		spoil(msg)
		_, err = outboxwatermill.Decode(msg)
		require.ErrorIs(t, err, outboxwatermill.ErrNotEvent, field)
		require.ErrorContains(t, err, field)
		require.True(t, inbox.Permanent(err), "no repetition fixes it")
	}
}

// The inbox gets the message's context, and the router the inbox's error; what is no event doesn't come so far.
func TestTheHandlerIsBetweenRouterAndInbox(t *testing.T) {
	type key struct{}
	var got []outbox.Event
	handler := outboxwatermill.Handler(func(ctx context.Context, e outbox.Event) (inbox.Result, error) {
		require.Equal(t, "the router's", ctx.Value(key{}))
		if got = append(got, e); len(got) == 1 {
			return inbox.Result{}, inbox.ErrInProgress
		}
		return inbox.Result{Outcome: inbox.Applied}, nil
	})
	msg, err := outboxwatermill.Encode(whole())
	require.NoError(t, err)
	msg.SetContext(context.WithValue(t.Context(), key{}, "the router's"))
	require.ErrorIs(t, handler(msg), inbox.ErrInProgress)
	require.NoError(t, handler(msg))
	require.ErrorIs(t, handler(message.NewMessage("1", nil)), outboxwatermill.ErrNotEvent)
	require.Len(t, got, 2)
	require.Equal(t, whole().ID, got[0].ID)
}
