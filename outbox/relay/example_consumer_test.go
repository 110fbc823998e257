package relay_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// A handler charges a credit for each completed assessment, in the transaction in which its subscription moves on: exactly once.
func ExampleNewConsumerSQL() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	dir, err := os.MkdirTemp("", "example")
	fail(err)
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "example.db")+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)")
	fail(err)
	defer db.Close()

	tx, err := db.BeginTx(ctx, nil)
	fail(err)
	fail(outbox.Writer{}.Migrate(ctx, endstate.SQLiteTx(tx)))
	_, err = tx.ExecContext(ctx, "CREATE TABLE credits (assessment TEXT NOT NULL)")
	fail(err)
	_, err = outbox.Put(ctx, endstate.SQLiteTx(tx), outbox.Event{AggregateType: "assessment", AggregateID: "17", Type: "assessment.completed", Payload: []byte(`{}`)})
	fail(err)
	fail(tx.Commit())

	consumer, err := relay.NewConsumerSQL(db, func(ctx context.Context, tx *sql.Tx, event outbox.Event) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO credits VALUES ($1)", event.AggregateID)
		return err
	}, &relay.Config{
		Subscription: "credits",
		Types:        []string{"assessment.completed"},
		Logger:       quick().Logger,
		Trace:        &relay.Trace{Published: func(context.Context, outbox.Event, time.Duration) { stop() }},
	})
	fail(err)
	fail(consumer.Run(ctx))

	var credits int
	fail(db.QueryRow("SELECT count(*) FROM credits WHERE assessment = '17'").Scan(&credits))
	fmt.Println(credits)
	// Output: 1
}

func fail(err error) {
	if err != nil {
		panic(err)
	}
}
