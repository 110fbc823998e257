package interop

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/testserver"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
	"github.com/endstate-go/endstate/outbox/outboxwatermill"
)

func events(n int) []outbox.Event {
	all := make([]outbox.Event, n)
	for i := range all {
		all[i] = outbox.Event{ID: uuid.New(), AggregateType: "batch", AggregateID: fmt.Sprint(i), Type: "assessment.completed", Payload: []byte("{}"), ContentType: "application/json", SchemaVersion: 1}
	}
	return all
}

var queues atomic.Int64

// declare makes a durable queue, whose name it returns.
func declare(t *testing.T, broker *testserver.RabbitMQ, args amqp.Table) string {
	t.Helper()
	name := fmt.Sprint("queue-", queues.Add(1))
	require.NoError(t, on(broker, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(name, true, false, false, false, args)
		return err
	}))
	return name
}

// on runs fn on a connection of its own.
func on(broker *testserver.RabbitMQ, fn func(*amqp.Channel) error) error {
	conn, err := amqp.Dial(broker.URL())
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	return fn(ch)
}

// config is one that loses nothing: a durable queue, and confirms.
func config(broker *testserver.RabbitMQ) wamqp.Config {
	c := wamqp.NewDurableQueueConfig(broker.URL())
	c.Publish.ConfirmDelivery, c.Publish.ChannelPoolSize = true, 16
	c.Connection.Reconnect = &wamqp.ReconnectConfig{BackoffInitialInterval: 20 * time.Millisecond, BackoffMultiplier: 1.5, BackoffMaxInterval: 500 * time.Millisecond}
	return c
}

func publisher(t *testing.T, c wamqp.Config, queue string) *outboxwatermill.Publisher {
	t.Helper()
	to, err := wamqp.NewPublisher(c, watermill.NopLogger{})
	require.NoError(t, err)
	p, err := outboxwatermill.New(to, &outboxwatermill.Config{Topic: queue, Destination: "amqp://broker"})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, to.Close())
		p.Wait()
	})
	return p
}

// drained takes what stands in a queue, by Watermill's own unmarshalling, and returns all that it ever took.
func drained(broker *testserver.RabbitMQ, queue string) func(context.Context) ([]outbox.Event, error) {
	var got []outbox.Event
	return func(context.Context) ([]outbox.Event, error) {
		err := on(broker, func(ch *amqp.Channel) error {
			for {
				delivery, ok, err := ch.Get(queue, true)
				if !ok || err != nil {
					return err
				}
				msg, err := wamqp.DefaultMarshaler{}.Unmarshal(delivery)
				if err != nil {
					return err
				}
				e, err := outboxwatermill.Decode(msg)
				if err != nil {
					return err
				}
				got = append(got, e)
			}
		})
		return append([]outbox.Event(nil), got...), err
	}
}

// F47: RabbitMQ is killed, and started again.
func TestAMQPKeepsTheContract(t *testing.T) {
	broker := dbtest.StartRabbitMQ(t)
	// The queues are there since an earlier start: RabbitMQ may forget one that was declared just before it is killed.
	names := make([]string, 30)
	for i := range names {
		names[i] = declare(t, broker, nil)
	}
	broker.Stop()
	require.NoError(t, broker.Start())
	var next atomic.Int64
	outboxtest.Publisher(t, func(t *testing.T) outboxtest.Subject {
		queue := names[next.Add(1)-1]
		return outboxtest.Subject{
			Publisher: publisher(t, config(broker), queue),
			Received:  drained(broker, queue),
			Restart:   func() { broker.Kill(); require.NoError(t, broker.Start()) },
			Patience:  time.Minute,
		}
	})
}

// F47: what a broker refuses is a failure where confirms are on, and is lost without a word where they are off.
func TestOnlyConfirmsTellOfARefusal(t *testing.T) {
	broker := dbtest.StartRabbitMQ(t)
	for _, confirm := range []bool{true, false} {
		queue := declare(t, broker, amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
		c := config(broker)
		c.Publish.ConfirmDelivery = confirm
		p := publisher(t, c, queue)
		require.Empty(t, p.Publish(t.Context(), events(1)))
		errs := p.Publish(t.Context(), events(1))
		if confirm {
			require.Len(t, errs, 1)
			require.ErrorContains(t, errs[0], "not confirmed")
		} else {
			require.Empty(t, errs, "it reports as published what the queue refused")
		}
		if confirm {
			got, err := drained(broker, queue)(t.Context())
			require.NoError(t, err)
			require.Len(t, got, 1)
		}
	}
}

// F47: while a broker hangs a call ends with its context, and what it left behind ends when the broker answers; it is a repeat
// then.
func TestABrokerThatHangs(t *testing.T) {
	broker := dbtest.StartRabbitMQ(t)
	queue := declare(t, broker, nil)
	p := publisher(t, config(broker), queue)
	require.Empty(t, p.Publish(t.Context(), events(1)))
	broker.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	batch := events(3)
	errs := p.Publish(ctx, batch)
	require.Len(t, errs, 3)
	for _, err := range errs {
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	broker.Resume()
	p.Wait()
	require.Eventually(t, func() bool { return p.Publish(t.Context(), batch) == nil }, time.Minute, 10*time.Millisecond)
	got, err := drained(broker, queue)(t.Context())
	require.NoError(t, err)
	ids := map[uuid.UUID]int{}
	for _, e := range got {
		ids[e.ID]++
	}
	require.Len(t, ids, 4)
}

// A consumer of Watermill's reads the events from the broker as it reads other messages, and the inbox drops the repeats.
func TestAMQPConsumerAppliesOnce(t *testing.T) {
	broker := dbtest.StartRabbitMQ(t)
	queue := declare(t, broker, nil)
	p := publisher(t, config(broker), queue)
	batch := events(20)
	for range 3 {
		require.Empty(t, p.Publish(t.Context(), batch))
	}
	db := dbtest.SQLite(t)
	table, err := inbox.NewTableSQL(db, &inbox.TableConfig{Consumer: "results"})
	require.NoError(t, err)
	require.NoError(t, table.Migrate(t.Context()))
	subscriber, err := wamqp.NewSubscriber(config(broker), watermill.NopLogger{})
	require.NoError(t, err)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	var outcomes [6]atomic.Int64
	handle := outboxwatermill.Handler(func(ctx context.Context, e outbox.Event) (inbox.Result, error) {
		result, err := table.Apply(ctx, e, func(context.Context, *sql.Tx, outbox.Event) error { return nil })
		outcomes[result.Outcome].Add(1)
		return result, err
	})
	router.AddConsumerHandler("results", queue, subscriber, handle)
	done := make(chan error, 1)
	go func() { done <- router.Run(t.Context()) }()
	require.Eventually(t, func() bool { return outcomes[inbox.Applied].Load()+outcomes[inbox.Repeated].Load() == 60 }, time.Minute, 10*time.Millisecond)
	require.EqualValues(t, 20, outcomes[inbox.Applied].Load())
	require.NoError(t, errors.Join(router.Close(), <-done))
}
