package relay_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// exampleOutbox is a new outbox on SQLite with an event of batch b1 for each type.
func exampleOutbox(types ...string) (db *sql.DB, done func()) {
	dir, err := os.MkdirTemp("", "example")
	check(err)
	db, err = sql.Open("sqlite", "file:"+filepath.Join(dir, "example.db")+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)")
	check(err)
	ctx := context.Background()
	tx, err := db.BeginTx(ctx, nil)
	check(err)
	check(outbox.Writer{}.Migrate(ctx, endstate.SQLiteTx(tx)))
	for _, t := range types {
		_, err = outbox.Put(ctx, endstate.SQLiteTx(tx), outbox.Event{AggregateType: "batch", AggregateID: "b1", Type: t, Payload: []byte(`{"batch":"b1"}`)})
		check(err)
	}
	check(tx.Commit())
	return db, func() { check(db.Close()); check(os.RemoveAll(dir)) }
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// A relay hands the events to a publisher, one aggregate's in their order, until its context ends.
func ExampleRelay() {
	db, done := exampleOutbox("assessment.started", "assessment.completed")
	defer done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	publisher := outbox.PublisherFunc(func(_ context.Context, event outbox.Event) error {
		fmt.Printf("%s %s: %s\n", event.AggregateID, event.Type, event.Payload)
		if event.Type == "assessment.completed" {
			cancel() // the program's end: Run finishes the batch, marks it, and hands its shards back
		}
		return nil
	})
	rel, err := relay.NewSQL(db, publisher, &relay.Config{Logger: slog.New(slog.DiscardHandler)})
	check(err)
	check(rel.Run(ctx))

	admin, err := relay.NewAdminSQL(db, nil)
	check(err)
	stats, err := admin.Stats(context.Background())
	check(err)
	fmt.Println("pending:", stats.Pending)
	// Output:
	// b1 assessment.started: {"batch":"b1"}
	// b1 assessment.completed: {"batch":"b1"}
	// pending: 0
}

// An event that the broker never takes becomes a dead letter, with its error. Once the cause is mended, somebody has it
// tried again, on the record.
func ExampleAdmin_Retry() {
	db, done := exampleOutbox("assessment.result")
	defer done()
	ctx := context.Background()
	limit := 10
	publisher := outbox.PublisherFunc(func(_ context.Context, event outbox.Event) error {
		if len(event.Payload) > limit {
			return outbox.Permanent(errors.New("message too large"))
		}
		fmt.Println("published:", event.Type)
		return nil
	})
	runUntil := func(state relay.State) relay.Record {
		ctx, cancel := context.WithCancel(ctx)
		rel, err := relay.NewSQL(db, publisher, &relay.Config{Logger: slog.New(slog.DiscardHandler)})
		check(err)
		ended := make(chan error)
		go func() { ended <- rel.Run(ctx) }()
		defer func() { cancel(); check(<-ended) }()
		for {
			records, err := exampleAdmin(db).List(ctx, relay.Filter{State: state})
			check(err)
			if len(records) > 0 {
				return records[0]
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	dead := runUntil(relay.Dead)
	fmt.Println("dead:", dead.LastError)

	limit = 1000 // mended
	_, err := exampleAdmin(db).Retry(ctx, "ada", "the broker's limit is higher now", dead.ID)
	check(err)
	runUntil(relay.Published)
	_, history, err := exampleAdmin(db).Show(ctx, dead.ID)
	check(err)
	fmt.Printf("%s by %s: %s\n", history[0].Action, history[0].By, history[0].Why)
	// Output:
	// dead: outbox: permanent failure: message too large
	// published: assessment.result
	// retry by ada: the broker's limit is higher now
}

func exampleAdmin(db *sql.DB) *relay.Admin {
	admin, err := relay.NewAdminSQL(db, nil)
	check(err)
	return admin
}
