package outboxwatermill_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/outboxwatermill"
)

// A Watermill handler applies an event once through an inbox, though it is delivered three times: the row that it was handled
// commits with the effect. What can never be handled goes to a poison queue, and what failed is tried again, with pauses.
func ExampleHandler() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	dir, err := os.MkdirTemp("", "endstate")
	check(err)
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "credits.db")+"?_pragma=busy_timeout(10000)")
	check(err)
	defer db.Close()
	_, err = db.Exec("CREATE TABLE credits (batch TEXT)")
	check(err)
	table, err := inbox.NewTableSQL(db, &inbox.TableConfig{Consumer: "entitlements", Logger: slog.New(slog.DiscardHandler)})
	check(err)
	check(table.Migrate(ctx))

	// A service has a broker's publisher and subscriber in place of the channel.
	channel := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, watermill.NopLogger{})
	defer channel.Close()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	check(err)
	poison, err := middleware.PoisonQueueWithFilter(channel, "poison", inbox.Permanent)
	check(err)
	router.AddMiddleware(poison, middleware.Retry{MaxRetries: 10, InitialInterval: time.Second, ShouldRetry: func(p middleware.RetryParams) bool {
		return !inbox.Permanent(p.Err)
	}}.Middleware)
	router.AddConsumerHandler("entitlements", "events", channel, outboxwatermill.Handler(inbox.Handle(table,
		func(ctx context.Context, tx *sql.Tx, e outbox.Event) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO credits VALUES (?)", e.AggregateID)
			return err
		})))
	done := make(chan error, 1)
	go func() { done <- router.Run(ctx) }()
	<-router.Running()

	publisher, err := outboxwatermill.New(channel, &outboxwatermill.Config{Topic: "events"})
	check(err)
	// A relay calls it: relay.New(pool, publisher, nil). Here the same event is published three times, as after crashes.
	batch := events(1)
	for range 3 {
		check(errors.Join(publisher.Publish(ctx, batch)...))
	}
	var credits int
	check(db.QueryRow("SELECT count(*) FROM credits").Scan(&credits))
	fmt.Println(credits)
	check(router.Close())
	check(<-done)
	// Output: 1
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
