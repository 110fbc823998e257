package natsjs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
)

func events(n int) []outbox.Event {
	all := make([]outbox.Event, n)
	for i := range all {
		all[i] = outbox.Event{
			ID: uuid.New(), AggregateType: "batch", AggregateID: fmt.Sprint(i), Type: "assessment.completed", Payload: []byte("{}"),
			ContentType: "application/json", OccurredAt: time.Now().UTC().Truncate(time.Microsecond), SchemaVersion: 1,
		}
	}
	return all
}

func TestPublisherKeepsTheContract(t *testing.T) {
	outboxtest.Publisher(t, func(t *testing.T) outboxtest.Subject {
		b := startBroker(t, jetstream.StreamConfig{})
		p, err := New(b.conn, &Config{AckTimeout: time.Second})
		require.NoError(t, err)
		return outboxtest.Subject{
			Publisher: p,
			Received:  func(ctx context.Context) ([]outbox.Event, error) { return stored(ctx, b.js) },
			Refused: func(e outbox.Event) outbox.Event {
				e.Payload = make([]byte, maxPayload+1)
				return e
			},
			Hang:    b.wire.hold,
			Restart: b.restart,
		}
	})
}

// Every event can be carried whose attributes CloudEvents allows.
func TestNoEventIsRefusedForItsContents(t *testing.T) {
	b := startBroker(t, jetstream.StreamConfig{})
	p, err := New(b.conn, nil)
	require.NoError(t, err)
	e := events(1)[0]
	e.AggregateType, e.AggregateID, e.Type = `batch "x" *`, "i:1 PUB x", ".a b.>"
	e.ContentType, e.Payload = "a/b é", []byte("\x00\xff\r\n")
	e.Headers = map[string]string{"": "\r\n", "two words": "é", "Nats-Msg-Id": "1", "traceparent": "00-ab-cd-01"}
	require.Empty(t, p.Publish(t.Context(), []outbox.Event{e}))
	got, err := stored(t.Context(), b.js)
	require.NoError(t, err)
	require.Equal(t, []outbox.Event{e}, got)
	e.AggregateID = "i:1\r\nPUB x"
	require.ErrorIs(t, p.Publish(t.Context(), []outbox.Event{e})[0], outbox.ErrPermanent)
}

func TestTheStreamDropsRepeats(t *testing.T) {
	b := startBroker(t, jetstream.StreamConfig{})
	p, err := New(b.conn, nil)
	require.NoError(t, err)
	batch := events(100)
	for range 3 {
		require.Empty(t, p.Publish(t.Context(), batch))
	}
	got, err := stored(t.Context(), b.js)
	require.NoError(t, err)
	require.Equal(t, batch, got)
}

func TestSubjects(t *testing.T) {
	for _, tt := range []struct{ aggregateType, eventType, want string }{
		{"batch", "assessment.completed", "events.batch.assessment.completed"},
		{"batch", "completed", "events.batch.completed"},
		{"my.batch", "a", "events.my%2Ebatch.a"},
		{"*", ">", "events.%2A.%3E"},
		{"two words", "a.b c.é", "events.two%20words.a.b%20c.%C3%A9"},
		{"batch", ".", "events.batch.%2E"},
		{"batch", "a..b", "events.batch.a%2E%2Eb"},
		{"100%", "a.", "events.100%25.a%2E"},
	} {
		got := subject("events", outbox.Event{AggregateType: tt.aggregateType, Type: tt.eventType})
		require.Equal(t, tt.want, got)
		require.True(t, validSubject(got))
	}
	for _, s := range []string{"", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\r\nb", "a.*", "a.>", "a\x7f"} {
		require.False(t, validSubject(s), "%q", s)
	}
}

func TestConfigSubject(t *testing.T) {
	b := startBroker(t, jetstream.StreamConfig{Subjects: []string{"orders.*"}})
	p, err := New(b.conn, &Config{Subject: func(e outbox.Event) string { return "orders." + e.AggregateID }, Source: "/shop"})
	require.NoError(t, err)
	batch := events(3)
	batch[1].AggregateID = "a b"
	errs := p.Publish(t.Context(), batch)
	require.Len(t, errs, 3)
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], outbox.ErrPermanent)
	require.NoError(t, errs[2])
	stream, err := b.js.Stream(t.Context(), "EVENTS")
	require.NoError(t, err)
	m, err := stream.GetMsg(t.Context(), 2)
	require.NoError(t, err)
	require.Equal(t, "orders.2", m.Subject)
	require.Equal(t, nats.Header{
		"Nats-Msg-Id": {batch[2].ID.String()}, "ce-specversion": {"1.0"}, "ce-id": {batch[2].ID.String()}, "ce-source": {"/shop"},
		"ce-type": {"assessment.completed"}, "ce-subject": {"2"}, "ce-time": {batch[2].OccurredAt.Format(time.RFC3339Nano)},
		"ce-aggregatetype": {"batch"}, "ce-schemaversion": {"1"}, "content-type": {"application/json"},
	}, m.Header)
}

func TestWhatIsPermanent(t *testing.T) {
	for name, tt := range map[string]struct {
		stream    jetstream.StreamConfig
		cfg       Config
		payload   int
		message   string
		permanent bool
	}{
		"too large for the server": {payload: maxPayload, message: "maximum payload exceeded", permanent: true},
		"too large for the stream": {stream: jetstream.StreamConfig{MaxMsgSize: 1000}, payload: 2000, message: "message size exceeds maximum allowed", permanent: true},
		"no stream":                {cfg: Config{Prefix: "elsewhere"}, message: "no response from stream"},
		"another stream":           {cfg: Config{Stream: "OTHER"}, message: "expected stream does not match"},
		"a full stream":            {stream: jetstream.StreamConfig{MaxBytes: 500, Discard: jetstream.DiscardNew}, payload: 1000, message: "maximum bytes exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBroker(t, tt.stream)
			p, err := New(b.conn, &tt.cfg)
			require.NoError(t, err)
			batch := events(1)
			batch[0].Payload = make([]byte, tt.payload)
			errs := p.Publish(t.Context(), batch)
			require.Len(t, errs, 1)
			require.ErrorContains(t, errs[0], tt.message)
			require.ErrorContains(t, errs[0], "natsjs: publish to ")
			require.Equal(t, tt.permanent, isPermanent(errs[0]), errs[0])
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	b := startBroker(t, jetstream.StreamConfig{})
	for message, cfg := range map[string]*Config{
		"Config.Prefix and Config.Subject are both set":           {Prefix: "a", Subject: func(outbox.Event) string { return "a" }},
		`Config.Prefix is "a.*", which no subject can begin with`: {Prefix: "a.*"},
		"Config.Source is not a URI reference":                    {Source: ":"},
		"Config.AckTimeout is -1s":                                {AckTimeout: -time.Second},
		"Config.MaxInFlight is -1":                                {MaxInFlight: -1},
		"Config.MaxControlLine is -1":                             {MaxControlLine: -1},
	} {
		_, err := New(b.conn, cfg)
		require.ErrorIs(t, err, ErrConfig)
		require.EqualError(t, err, "natsjs: invalid configuration: "+message)
	}
	_, err := New(nil, nil)
	require.ErrorIs(t, err, ErrConfig)
}

func TestDecodeTellsWhatIsWrong(t *testing.T) {
	for message, header := range map[string]nats.Header{
		`natsjs: not an event: specversion is "", not 1.0`:                                {"Nats-Msg-Id": {"1"}},
		`natsjs: not an event: header ce-type is not percent-encoded as CloudEvents asks`: {"ce-type": {"%"}},
	} {
		_, err := Decode(header, nil)
		require.ErrorIs(t, err, ErrNotEvent)
		require.EqualError(t, err, message)
	}
}

// What is read of any message can be sent and read again as the same.
func FuzzDecode(f *testing.F) {
	f.Add("ce-subject", "%C3%BC%20%22", "018f3b2e-0000-7000-8000-000000000001", "t", "2026-02-03t04:05:06z", "application/json", []byte("{}"))
	f.Add("Ce-TraceState", "a=1%2C", "evt_123", "%ff", "", "text/plain; charset=utf-8", []byte{0xff})
	f.Add("ce-headers", `{%22A%22:%22\u00e9%22}`, "evt_123", "a.b", "2026-02-03T04:05:06.123456789+01:00", "%22", []byte(nil))
	f.Fuzz(func(t *testing.T, name, value, id, eventType, at, content string, data []byte) {
		e, err := Decode(nats.Header{
			"ce-specversion": {"1.0"}, "ce-id": {id}, "ce-source": {"s"}, "ce-type": {eventType}, "ce-time": {at}, "content-type": {content}, name: {value}, "ce-empty": nil,
		}, data)
		if err != nil {
			require.ErrorIs(t, err, ErrNotEvent)
			return
		}
		m, err := message(e, subject("events", outbox.Event{AggregateType: "batch", Type: e.Type}), "s")
		require.NoError(t, err, "what was taken can be sent")
		require.True(t, validSubject(m.Subject), m.Subject)
		for name, values := range m.Header {
			require.Regexp(t, "^[!-~]+$", name+values[0])
		}
		again, err := Decode(m.Header, m.Data)
		require.NoError(t, err)
		require.True(t, e.OccurredAt.Equal(again.OccurredAt))
		require.True(t, maps.Equal(e.Headers, again.Headers), "%q, %q", e.Headers, again.Headers)
		require.True(t, bytes.Equal(e.Payload, again.Payload))
		require.Equal(t, []any{e.ID, e.Type, e.AggregateID, e.AggregateType, e.ContentType}, []any{again.ID, again.Type, again.AggregateID, again.AggregateType, again.ContentType})
	})
}

func isPermanent(err error) bool { return errors.Is(err, outbox.ErrPermanent) }
