package natsjs_test

import (
	"context"
	"log"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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
	// A relay calls it: outbox.NewRelay(pool, publisher, nil).
	_ = publisher
}
