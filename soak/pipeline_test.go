package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/kafka"
	"github.com/endstate-go/endstate/outbox/natsjs"
	"github.com/endstate-go/endstate/outbox/redisstream"
	"github.com/endstate-go/endstate/outbox/relay"
)

// The subscriptions. toNATS and toKafka get every event, toRedis steps, and inside steps and results.
const (
	toNATS  = "nats"
	toKafka = "kafka"
	toRedis = "redis"
	inside  = "inside" // the consumer whose effects commit with the cursor
)

// handlerTimeout ends a handler whose connection has gone silent.
const handlerTimeout = 5 * time.Second

func subscriptions() []string { return []string{toNATS, toKafka, toRedis, inside} }

// stepType is the type of the events about an aggregate that isn't final: each is one of many, in an order.
const (
	stepType   = "step"
	resultType = "result"
	steps      = 20 // how many such aggregates there are
)

const (
	leaseTTL = 3 * time.Second // which a server's restart doesn't outlast
	readers  = "soak"          // the consumers' group
	stream   = "EVENTS"
	dead     = "dead.events"
)

// step takes a row's lock, counts it up, and announces the number.
func step(ctx context.Context, pool *pgxpool.Pool, dice *rand.Rand) {
	id := dice.IntN(steps)
	// What becomes of it the rows tell.
	_ = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, "UPDATE steps SET n = n + 1 WHERE id = $1 RETURNING n", id).Scan(&n); err != nil {
			return err
		}
		_, err := outbox.Put(ctx, tx, outbox.Event{AggregateType: stepType, AggregateID: fmt.Sprint(id), Type: stepType,
			Payload: fmt.Append(nil, n), ContentType: "text/plain"})
		return err
	})
}

// subscribed configures a relay, or a consumer, of a subscription.
func (w worker) subscribed(subscription string) *relay.Config {
	cfg := &relay.Config{Name: w.Name, Subscription: subscription, Destination: "soak://" + subscription, LeaseTTL: leaseTTL, PollInterval: 200 * time.Millisecond,
		BatchSize:      20, // after a death so many of each partition go out one by one
		PublishTimeout: 10 * time.Second, MinBackoff: 20 * time.Millisecond, MaxBackoff: time.Second,
		MaxCrashes: 1000, Logger: discard()} // no event is to blame for the processes that are killed
	switch subscription {
	case toRedis:
		cfg.Types = []string{stepType}
	case inside:
		cfg.Types = []string{stepType, resultType}
	}
	return cfg
}

// relay publishes for each subscription that has a broker, until ctx ends.
func (w worker) relay(ctx context.Context, pool *pgxpool.Pool) error {
	conn, err := w.nats()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := w.redis()
	defer client.Close()
	natsPublisher, err := natsjs.New(conn, &natsjs.Config{Stream: stream})
	if err != nil {
		return err
	}
	kafkaPublisher, err := kafka.New(&kafka.Config{AckTimeout: 5 * time.Second, Logger: discard()}, kgo.SeedBrokers(w.Kafka...))
	if err != nil {
		return err
	}
	defer kafkaPublisher.Close()
	redisPublisher, err := redisstream.New(client, nil)
	if err != nil {
		return err
	}
	var runs []func(context.Context) error
	for subscription, publisher := range map[string]outbox.Publisher{toNATS: natsPublisher, toKafka: kafkaPublisher, toRedis: redisPublisher} {
		r, err := relay.New(pool, publisher, w.subscribed(subscription))
		if err != nil {
			return err
		}
		runs = append(runs, r.Run)
	}
	return runAll(ctx, runs)
}

// consume applies what comes, once each, until ctx ends.
func (w worker) consume(ctx context.Context, pool *pgxpool.Pool) error {
	conn, err := w.nats()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := w.redis()
	defer client.Close()
	once := func(consumer string) inbox.Handler {
		table, err2 := inbox.NewTable(pool, &inbox.TableConfig{Consumer: consumer, MaxAttempts: -1, Logger: discard()})
		err = errors.Join(err, err2)
		return inbox.Handle(table, func(ctx context.Context, tx pgx.Tx, e outbox.Event) error { return apply(ctx, tx, consumer, e) })
	}
	fromNATS, fromKafka, fromRedis := once(toNATS), once(toKafka), once(toRedis)
	if err != nil {
		return err
	}
	kafkaConsumer, err := kafka.NewConsumer(fromKafka, &kafka.ConsumerConfig{Group: readers, HandlerTimeout: handlerTimeout, MaxAttempts: 1 << 30, RetryAfter: 200 * time.Millisecond, Logger: discard()},
		kgo.SeedBrokers(w.Kafka...), kgo.SessionTimeout(3*time.Second), kgo.HeartbeatInterval(200*time.Millisecond), kgo.FetchMaxWait(200*time.Millisecond), kgo.AutoCommitInterval(200*time.Millisecond))
	if err != nil {
		return err
	}
	redisConsumer, err := redisstream.NewConsumer(client, fromRedis, &redisstream.ConsumerConfig{Group: readers, HandlerTimeout: handlerTimeout, RetryAfter: 500 * time.Millisecond, MaxDeliveries: 1 << 30, Logger: discard()})
	if err != nil {
		return err
	}
	insideConsumer, err := relay.NewConsumer(pool, func(ctx context.Context, tx pgx.Tx, e outbox.Event) error { return apply(ctx, tx, inside, e) }, w.subscribed(inside))
	if err != nil {
		return err
	}
	return runAll(ctx, []func(context.Context) error{kafkaConsumer.Run, redisConsumer.Run, insideConsumer.Run,
		func(ctx context.Context) error { return consumeNATS(ctx, conn, fromNATS) }})
}

// consumeNATS waits for its broker first, which may be away.
func consumeNATS(ctx context.Context, conn *nats.Conn, handle inbox.Handler) error {
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		durable, err := js.Consumer(ctx, stream, readers)
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		consumer, err := natsjs.NewConsumer(js, durable, handle, &natsjs.ConsumerConfig{HandlerTimeout: handlerTimeout, DeadLetters: dead, RetryAfter: 100 * time.Millisecond, MaxDeliveries: 1 << 30, Logger: discard()})
		if err != nil {
			return err
		}
		return consumer.Run(ctx)
	}
	return nil
}

// apply is a consumer's effect.
func apply(ctx context.Context, tx pgx.Tx, consumer string, e outbox.Event) error {
	_, err := tx.Exec(ctx, "INSERT INTO effects (consumer, event) VALUES ($1, $2)", consumer, e.ID)
	return err
}

func (w worker) nats() (*nats.Conn, error) {
	return nats.Connect(w.NATS, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
}

// runAll runs all until ctx ends, or one returns an error.
func runAll(ctx context.Context, runs []func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(runs))
	var group sync.WaitGroup
	for i, run := range runs {
		group.Go(func() {
			errs[i] = run(ctx)
			stop()
		})
	}
	group.Wait()
	return errors.Join(errs...)
}
