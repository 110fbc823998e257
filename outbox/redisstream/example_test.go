package redisstream_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/redisstream"
)

// Each aggregate type has a stream of its own, of which about a week is kept.
func ExampleNew() {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379", ContextTimeoutEnabled: true, MaxRetries: -1})
	defer rdb.Close()
	publisher, err := redisstream.New(rdb, &redisstream.Config{
		StreamFor: func(e outbox.Event) string { return "events:" + e.AggregateType },
		MaxAge:    7 * 24 * time.Hour,
	})
	if err != nil {
		log.Fatal(err)
	}
	// A relay calls it: relay.New(pool, publisher, nil).
	_ = publisher
}

// A consumer group whose members apply each event once: the inbox's row commits with the effect.
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
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
	defer rdb.Close()
	consumer, err := redisstream.NewConsumer(rdb, handle, &redisstream.ConsumerConfig{Stream: "events:batch", Group: "entitlements"})
	if err != nil {
		log.Fatal(err)
	}
	if err := consumer.Run(ctx); err != nil { // until ctx ends
		log.Fatal(err)
	}
}

// A consumer has XMessage.Values of go-redis.
func ExampleDecode() {
	message := redis.XMessage{ID: "1526919030474-0", Values: map[string]any{
		"id": "018f3b2e-0000-7000-8000-000000000001", "type": "order.paid", "aggregate_type": "order", "aggregate_id": "7",
		"content_type": "application/json", "schema_version": "1", "payload": `{"credits":3}`,
	}}
	e, err := redisstream.Decode(message.Values)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(e.Type, e.AggregateID, string(e.Payload), e.ID == uuid.MustParse("018f3b2e-0000-7000-8000-000000000001"))
	// Output: order.paid 7 {"credits":3} true
}
