package natsjs

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// Streams are deleted under a consumer that runs, and made anew, where numbers begin with 1 again. It goes on, and no message is taken
// for an earlier one of its number: neither as a dead letter, nor when it is delivered again.
func TestStreamsThatAreMadeAnew(t *testing.T) {
	t.Parallel()
	b := startBroker(t, jetstream.StreamConfig{})
	consumer := b.durable(jetstream.ConsumerConfig{})
	var fixed atomic.Bool
	s := sink{answer: func(int, outbox.Event) error {
		if fixed.Load() {
			return nil
		}
		return outbox.Permanent(errors.New("no such account"))
	}}
	c, _ := b.running(consumer, s.handle)
	redeliver := func(letters int) {
		fixed.Store(true)
		before := s.total.Load()
		n, err := c.Redeliver(t.Context(), 10)
		require.NoError(t, err)
		require.Equal(t, letters, n)
		eventually(t, "they are handled", func() bool { return s.total.Load() == before+int64(letters) && b.idle(consumer)() })
		fixed.Store(false)
	}
	b.publish(events(1))
	eventually(t, "it is a dead letter", func() bool { return b.dead() == 1 })

	require.NoError(t, b.js.DeleteStream(t.Context(), "EVENTS"))
	_, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "EVENTS", Subjects: []string{"events.>"}})
	require.NoError(t, err)
	consumer = b.durable(jetstream.ConsumerConfig{})
	b.publish(events(1))
	eventually(t, "the next one is, too", func() bool { return b.dead() == 2 && b.idle(consumer)() })
	redeliver(2)

	require.NoError(t, b.js.DeleteStream(t.Context(), "DEAD"))
	b.durable(jetstream.ConsumerConfig{})
	b.publish(events(1))
	eventually(t, "the third is", func() bool { return b.dead() == 1 && b.idle(consumer)() })
	redeliver(1)
}
