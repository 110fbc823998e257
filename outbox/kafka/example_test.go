package kafka_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/kafka"
)

// Events of each aggregate type go to a topic of their own. The client's options say where the brokers are, and who it is.
func ExampleNew() {
	publisher, err := kafka.New(&kafka.Config{Topic: "shop.{aggregatetype}", Source: "/shop/orders"},
		kgo.SeedBrokers("kafka-1.example:9092", "kafka-2.example:9092"),
		kgo.DialTLS(),
		kgo.SASL(scram.Auth{User: "relay", Pass: os.Getenv("KAFKA_PASSWORD")}.AsSha512Mechanism()),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer publisher.Close()
	// A relay calls it: relay.New(pool, publisher, nil).
	fmt.Println(publisher.Destination())
	// Output: kafka://kafka-1.example:9092,kafka-2.example:9092
}

// A record is a CloudEvent, which any consumer reads. Here the broker is kfake, which runs in the process.
func ExampleDecode() {
	cluster, err := kfake.NewCluster(kfake.SeedTopics(3, "events"))
	if err != nil {
		log.Fatal(err)
	}
	defer cluster.Close()
	publisher, err := kafka.New(nil, kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		log.Fatal(err)
	}
	defer publisher.Close()
	ctx := context.Background()
	if errs := publisher.Publish(ctx, []outbox.Event{{AggregateType: "batch", AggregateID: "42", Type: "assessment.completed", Payload: []byte(`{"done":10}`)}}); errs != nil {
		log.Fatal(errs)
	}

	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("events"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for _, r := range client.PollFetches(ctx).Records() {
		e, err := kafka.Decode(r.Headers, r.Value)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(r.Key), e.Type, string(e.Payload))
	}
	// Output: 42 assessment.completed {"done":10}
}

// The inbox's row commits with the effect, and the offset after both.
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
	consumer, err := kafka.NewConsumer(handle, &kafka.ConsumerConfig{Group: "entitlements", Topics: []string{"shop.batch"}, DeadLetters: "dead.entitlements"},
		kgo.SeedBrokers("127.0.0.1:9092"))
	if err != nil {
		log.Fatal(err)
	}
	if err := consumer.Run(ctx); err != nil { // until ctx ends
		log.Fatal(err)
	}
}
