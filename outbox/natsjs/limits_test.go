package natsjs

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// A server closes a connection for a line that is too long, and the client takes it for closed for good.
func TestASubjectThatIsTooLongIsRefusedAlone(t *testing.T) {
	for name, line := range map[string]int{"default": 0, "a shorter line": 1000} {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t, jetstream.StreamConfig{}, func(b *broker) { b.opts.MaxControlLine = int32(line) })
			p, err := New(b.conn, &Config{MaxControlLine: line, Subject: func(e outbox.Event) string { return "events." + e.AggregateID }})
			require.NoError(t, err)
			batch := events(4)
			batch[0].AggregateID = strings.Repeat("a", p.maxSubject-len("events."))
			batch[1].AggregateID = strings.Repeat("a", p.maxSubject-len("events.")+1)
			batch[2].AggregateID = strings.Repeat("a", 100_000)
			errs := p.Publish(t.Context(), batch)
			require.Len(t, errs, 4)
			require.NoError(t, errs[0], "the longest")
			require.ErrorIs(t, errs[1], outbox.ErrPermanent)
			require.ErrorIs(t, errs[2], outbox.ErrPermanent)
			require.ErrorContains(t, errs[1], "Config.MaxControlLine")
			require.Less(t, len(errs[2].Error()), 500)
			require.NoError(t, errs[3])
			require.False(t, b.conn.IsClosed())
		})
	}
	b := startBroker(t, jetstream.StreamConfig{})
	_, err := New(b.conn, &Config{Prefix: strings.Repeat("p", 4100)})
	require.ErrorIs(t, err, ErrConfig)
	require.ErrorContains(t, err, "Config.Prefix is 4100 bytes long")
	_, err = NewConsumer(b.js, b.durable(jetstream.ConsumerConfig{}), new(sink).handle, &ConsumerConfig{DeadLetters: "dead." + strings.Repeat("d", 4000)})
	require.ErrorIs(t, err, ErrConfig)
}

// A connection that gives up fails every event after a longer outage, until somebody restarts the relay.
func TestAConnectionThatGivesUpIsRefused(t *testing.T) {
	b := startBroker(t, jetstream.StreamConfig{})
	consumer := b.durable(jetstream.ConsumerConfig{})
	for name, opts := range map[string][]nats.Option{
		"gives up after 60 attempts": nil,
		"gives up after 5 attempts":  {nats.MaxReconnects(5)},
		"doesn't reconnect":          {nats.NoReconnect()},
	} {
		conn, err := nats.Connect(b.server.ClientURL(), opts...)
		require.NoError(t, err)
		defer conn.Close()
		_, err = New(conn, nil)
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, name)
		require.ErrorContains(t, err, "nats.MaxReconnects(-1)")
		js, err := jetstream.New(conn)
		require.NoError(t, err)
		_, err = NewConsumer(js, consumer, new(sink).handle, &ConsumerConfig{DeadLetters: "dead.results"})
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, name)
	}
}

// What is too large for a server in its headers is too large for good.
func TestHeadersThatAreTooLongArePermanent(t *testing.T) {
	b := startBroker(t, jetstream.StreamConfig{})
	p, err := New(b.conn, nil)
	require.NoError(t, err)
	batch := events(2)
	batch[0].Headers = map[string]string{"tracestate": strings.Repeat("x", 70_000)}
	errs := p.Publish(t.Context(), batch)
	require.Len(t, errs, 2)
	require.ErrorIs(t, errs[0], outbox.ErrPermanent)
	require.NoError(t, errs[1])
}

// letters returns what the stream of dead letters holds.
func (b *broker) letters() (all []*jetstream.RawStreamMsg) {
	b.t.Helper()
	stream, err := b.js.Stream(b.t.Context(), "DEAD")
	require.NoError(b.t, err)
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(b.t.Context(), seq)
		require.NoError(b.t, err)
		all = append(all, m)
	}
	return all
}

// An error of 2 MB, in a header, would make a dead letter that no server takes.
func TestAnErrorIsQuotedInPart(t *testing.T) {
	b := startBroker(t, jetstream.StreamConfig{})
	batch := events(1)
	b.publish(batch)
	s := sink{answer: func(int, outbox.Event) error {
		return outbox.Permanent(errors.New("no\x00such\x1b account" + strings.Repeat("é", 1<<20)))
	}}
	consumer := b.durable(jetstream.ConsumerConfig{})
	b.running(consumer, s.handle)
	eventually(t, "it is a dead letter", func() bool { return b.dead() == 1 && b.idle(consumer)() })
	letters := b.letters()
	text := letters[0].Header.Get(HeaderDeadError)
	require.Contains(t, text, "no such  account")
	require.LessOrEqual(t, len(text), maxError)
	require.True(t, utf8.ValidString(text))
	e, err := Decode(letters[0].Header, letters[0].Data)
	require.NoError(t, err)
	require.Equal(t, batch[0], e)
}

// A message that is as long as its server or stream allows has no room for what a dead letter says: it is kept beside it, and
// redelivered as it was.
func TestAMessageWithoutRoomIsBuriedNevertheless(t *testing.T) {
	full := func(m *nats.Msg, limit int) *nats.Msg {
		m.Data = append(m.Data, make([]byte, limit-headerSize(m.Header)-len(m.Data))...)
		return m
	}
	headers := func(header int) *nats.Msg {
		m := &nats.Msg{Subject: "events.x", Header: nats.Header{"x": {""}}}
		m.Header.Set("x", strings.Repeat("x", header-headerSize(m.Header)))
		return m
	}
	for name, tt := range map[string]struct {
		message      *nats.Msg
		stream, dead int32 // MaxMsgSize
	}{
		"as long as the server allows":           {message: full(&nats.Msg{Subject: "events.x"}, maxPayload-headerSize(nil))},
		"as long as the server allows, headers":  {message: full(headers(1000), maxPayload)},
		"nearly as long as the server allows":    {message: full(headers(1000), maxPayload-100)},
		"as long as the stream allows":           {message: full(headers(1000), 5000), stream: 5000, dead: 5000},
		"headers as long as JetStream allows":    {message: headers(maxHeader)},
		"with headers that only we should write": {message: full(&nats.Msg{Subject: "events.x", Header: nats.Header{HeaderDeadMessage: {"1"}, HeaderDeadConsumer: {"EVENTS/results"}}}, maxPayload)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBroker(t, jetstream.StreamConfig{MaxMsgSize: max(tt.stream, -1)})
			consumer := b.durable(jetstream.ConsumerConfig{})
			_, err := b.js.UpdateStream(t.Context(), jetstream.StreamConfig{Name: "DEAD", Subjects: []string{"dead.>"}, MaxMsgSize: tt.dead})
			require.NoError(t, err)
			_, err = b.js.PublishMsg(t.Context(), tt.message)
			require.NoError(t, err)
			c, stop := b.running(consumer, new(sink).handle) // it is no event
			eventually(t, "it is a dead letter", func() bool { return b.dead() > 0 && b.idle(consumer)() })
			stop()
			require.EqualValues(t, 2, b.dead())

			n, err := c.Redeliver(t.Context(), 10)
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.Zero(t, b.dead())
			stream, err := b.js.Stream(t.Context(), "EVENTS")
			require.NoError(t, err)
			again, err := stream.GetMsg(t.Context(), 2)
			require.NoError(t, err)
			require.Equal(t, "events.x", again.Subject)
			require.Equal(t, tt.message.Data, again.Data)
			require.Equal(t, tt.message.Header.Get("x"), again.Header.Get("x"))
		})
	}
}

// What the dead letters' stream can't take would be delivered forever.
func TestADeadLettersStreamForShorterMessagesIsRefused(t *testing.T) {
	b := startBroker(t, jetstream.StreamConfig{})
	consumer := b.durable(jetstream.ConsumerConfig{})
	_, err := b.js.UpdateStream(t.Context(), jetstream.StreamConfig{Name: "DEAD", Subjects: []string{"dead.>"}, MaxMsgSize: 1000})
	require.NoError(t, err)
	c, err := NewConsumer(b.js, consumer, new(sink).handle, &ConsumerConfig{DeadLetters: "dead.results"})
	require.NoError(t, err)
	err = c.Run(t.Context())
	require.ErrorIs(t, err, ErrConfig)
	require.ErrorContains(t, err, "takes messages of up to 1000 bytes")
}

// A broken-off burial is repeated, and the message kept once.
func TestAMessageThatIsBuriedTwiceIsKeptOnce(t *testing.T) {
	b := startBroker(t, jetstream.StreamConfig{})
	consumer := b.durable(jetstream.ConsumerConfig{})
	m := events(1)[0]
	m.Payload = []byte(strings.Repeat("x", maxPayload-700))
	m.ContentType = "text/plain"
	b.publish([]outbox.Event{m})
	c, err := NewConsumer(b.js, consumer, new(sink).handle, &ConsumerConfig{DeadLetters: "dead.results"})
	require.NoError(t, err)
	got, err := consumer.Next()
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, c.keep(t.Context(), got, nats.Header{HeaderDeadError: {strings.Repeat("e", 700)}, jetstream.MsgIDHeader: {"dead/1"}}, "dead/1"))
	}
	require.EqualValues(t, 2, b.dead(), "the message and its note")
	require.NoError(t, got.Ack())
}
