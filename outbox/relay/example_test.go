package relay_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

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
			cancel() // the program's end: Run finishes the batch, moves the cursor, and hands its partitions back
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
	fmt.Println("pending:", stats[0].Pending)
	// Output:
	// b1 assessment.started: {"batch":"b1"}
	// b1 assessment.completed: {"batch":"b1"}
	// pending: 0
}
