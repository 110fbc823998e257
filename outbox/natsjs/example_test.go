package natsjs_test

import (
	"context"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/natsjs"
)

// The service creates its stream, with a duplicate window that outlasts what delays a repeat.
func ExampleNew() {
	ctx := context.Background()
	conn, err := nats.Connect("nats://127.0.0.1:4222", nats.MaxReconnects(-1), nats.FlusherTimeout(5*time.Second))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: "EVENTS", Subjects: []string{"events.>"}, Replicas: 3, Duplicates: 30 * time.Minute,
	}); err != nil {
		log.Fatal(err)
	}
	publisher, err := natsjs.New(conn, &natsjs.Config{Stream: "EVENTS", Source: "/shop/orders"})
	if err != nil {
		log.Fatal(err)
	}
	// A relay calls it: relay.New(pool, publisher, nil).
	_ = publisher
}

// The service creates a durable consumer; the inbox's row commits with the effect.
func ExampleNewConsumer() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	pool, err := pgxpool.New(ctx, "postgres://localhost/entitlements")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	table, err := inbox.NewTable(pool, &inbox.TableConfig{Consumer: "entitlements"})
	if err != nil {
		log.Fatal(err)
	}
	handle := inbox.Handle(table, func(ctx context.Context, tx pgx.Tx, e outbox.Event) error {
		_, err := tx.Exec(ctx, "INSERT INTO credits (batch) VALUES ($1)", e.AggregateID)
		return err
	})
	conn, err := nats.Connect("nats://127.0.0.1:4222", nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		log.Fatal(err)
	}
	durable, err := js.CreateOrUpdateConsumer(ctx, "EVENTS", jetstream.ConsumerConfig{
		Durable: "entitlements", FilterSubject: "events.batch.>", AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		log.Fatal(err)
	}
	consumer, err := natsjs.NewConsumer(js, durable, handle, &natsjs.ConsumerConfig{DeadLetters: "dead.entitlements"})
	if err != nil {
		log.Fatal(err)
	}
	if err := consumer.Run(ctx); err != nil { // until ctx ends
		log.Fatal(err)
	}
}
