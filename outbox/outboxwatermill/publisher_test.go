package outboxwatermill_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
	"github.com/endstate-go/endstate/outbox/outboxwatermill"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func events(n int) []outbox.Event {
	all := make([]outbox.Event, n)
	for i := range all {
		all[i] = outbox.Event{ID: uuid.New(), AggregateType: "batch", AggregateID: fmt.Sprint(i), Type: "assessment.completed", Payload: []byte("{}"), ContentType: "application/json", SchemaVersion: 1}
	}
	return all
}

// received collects what a subscriber gets.
type received struct {
	mu     sync.Mutex
	events []outbox.Event
	err    error
}

func (r *received) take(messages <-chan *message.Message) {
	for msg := range messages {
		e, err := outboxwatermill.Decode(msg)
		r.mu.Lock()
		r.events, r.err = append(r.events, e), errors.Join(r.err, err)
		r.mu.Unlock()
		msg.Ack()
	}
}

func (r *received) all(context.Context) ([]outbox.Event, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]outbox.Event(nil), r.events...), r.err
}

func TestGoChannelKeepsTheContract(t *testing.T) {
	outboxtest.Publisher(t, func(t *testing.T) outboxtest.Subject {
		channel := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, watermill.NopLogger{})
		messages, err := channel.Subscribe(t.Context(), "events")
		require.NoError(t, err)
		got := new(received)
		var taking sync.WaitGroup
		taking.Go(func() { got.take(messages) })
		t.Cleanup(func() {
			require.NoError(t, channel.Close())
			taking.Wait()
		})
		p, err := outboxwatermill.New(channel, &outboxwatermill.Config{Topic: "events"})
		require.NoError(t, err)
		return outboxtest.Subject{Publisher: p, Received: got.all}
	})
}

// fake is a Watermill publisher.
type fake struct {
	publish func(topic string, msg *message.Message) error
}

func (f fake) Publish(topic string, messages ...*message.Message) error {
	for _, m := range messages {
		if err := f.publish(topic, m); err != nil {
			return err
		}
	}
	return nil
}

func (fake) Close() error { return nil }

// F47: a publisher fails, panics, or ends its goroutine.
func TestErrorsAreTheirEvents(t *testing.T) {
	tooLarge := errors.New("too large")
	topics := sync.Map{}
	p, err := outboxwatermill.New(fake{func(topic string, m *message.Message) error {
		topics.Store(topic, true)
		switch m.Metadata["endstate_aggregate_id"] {
		case "1":
			return errors.New("away")
		case "2":
			return tooLarge
		case "3":
			panic("payload")
		case "4":
			runtime.Goexit()
		}
		return nil
	}}, &outboxwatermill.Config{TopicFor: func(e outbox.Event) string {
		if e.AggregateID == "5" {
			return ""
		}
		return "of-" + e.Type
	}, Permanent: func(err error) bool { return errors.Is(err, tooLarge) }, Concurrency: 2})
	require.NoError(t, err)
	batch := events(8)
	batch[6].Type = "two\nlines"
	errs := p.Publish(t.Context(), batch)
	require.Len(t, errs, 8)
	require.NoError(t, errs[0])
	require.ErrorContains(t, errs[1], "away")
	require.NotErrorIs(t, errs[1], outbox.ErrPermanent)
	require.ErrorIs(t, errs[2], tooLarge)
	require.ErrorIs(t, errs[2], outbox.ErrPermanent)
	require.ErrorContains(t, errs[3], "panicked with a string")
	require.NotContains(t, errs[3].Error(), "payload")
	require.ErrorContains(t, errs[4], "ended its goroutine")
	require.ErrorIs(t, errs[5], outbox.ErrPermanent)
	require.ErrorIs(t, errs[6], outbox.ErrPermanent)
	require.NoError(t, errs[7])
	_, named := topics.Load("of-assessment.completed")
	require.True(t, named)
}

// F47: a call of Watermill's that hangs is left behind when the context ends; there are never more of them than Concurrency, and
// Wait waits for their end.
func TestACallThatHangsIsLeftBehind(t *testing.T) {
	const concurrency = 3
	resume, full := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	under, most := 0, 0
	fill := sync.OnceFunc(func() { close(full) })
	p, err := outboxwatermill.New(fake{func(string, *message.Message) error {
		mu.Lock()
		under++
		most = max(most, under)
		if under == concurrency {
			fill()
		}
		mu.Unlock()
		<-resume
		mu.Lock()
		under--
		mu.Unlock()
		return nil
	}}, &outboxwatermill.Config{Topic: "events", Concurrency: concurrency})
	require.NoError(t, err)
	for range 4 {
		stopped := errors.New("stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-full
			cancel(stopped)
		}()
		errs := p.Publish(ctx, events(10))
		require.Len(t, errs, 10)
		for _, err := range errs {
			require.ErrorIs(t, err, stopped)
		}
	}
	mu.Lock()
	require.Equal(t, concurrency, most)
	mu.Unlock()
	close(resume)
	p.Wait()
	require.Zero(t, under)
	require.Empty(t, p.Publish(t.Context(), events(10)))
}

// The relay's context goes with each message, for publishers that heed its end, or continue its trace.
func TestTheContextGoesWithTheMessages(t *testing.T) {
	type key struct{}
	var with sync.Map
	p, err := outboxwatermill.New(fake{func(_ string, m *message.Message) error {
		with.Store(m.UUID, m.Context().Value(key{}))
		return nil
	}}, &outboxwatermill.Config{Topic: "events"})
	require.NoError(t, err)
	batch := events(3)
	require.Empty(t, p.Publish(context.WithValue(t.Context(), key{}, "the relay's"), batch))
	for _, e := range batch {
		value, _ := with.Load(e.ID.String())
		require.Equal(t, "the relay's", value)
	}
}

// What is to go out after the context has ended isn't sent, though nothing would keep it from being.
func TestNothingIsSentAfterTheEnd(t *testing.T) {
	p, err := outboxwatermill.New(fake{func(string, *message.Message) error { panic("sent") }}, &outboxwatermill.Config{Topic: "events", Concurrency: 100})
	require.NoError(t, err)
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	errs := p.Publish(ctx, events(50))
	require.Len(t, errs, 50)
	for _, err := range errs {
		require.EqualError(t, err, "stopped")
	}
}

func TestConfigIsChecked(t *testing.T) {
	for want, cfg := range map[string]*outboxwatermill.Config{
		"Config.Topic is empty": nil, "both set": {Topic: "a", TopicFor: func(outbox.Event) string { return "b" }}, "Concurrency is -1": {Topic: "a", Concurrency: -1},
	} {
		_, err := outboxwatermill.New(fake{}, cfg)
		require.ErrorIs(t, err, outboxwatermill.ErrConfig)
		require.ErrorContains(t, err, want)
	}
	_, err := outboxwatermill.New(nil, &outboxwatermill.Config{Topic: "a"})
	require.ErrorContains(t, err, "the publisher is nil")
	p, err := outboxwatermill.New(fake{}, &outboxwatermill.Config{Topic: "a", Destination: "amqp://broker:5672"})
	require.NoError(t, err)
	require.Equal(t, "amqp://broker:5672", p.Destination())
}
