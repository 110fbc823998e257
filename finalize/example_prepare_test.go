package finalize_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"sync"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/outbox"
)

// Work that takes long is done before the transaction, and with a lock once, however many triggers there are.
func ExampleDoPrepared() {
	db, done := exampleDB()
	defer done()
	fin, err := finalize.NewSQL(db, &finalize.Config{
		Aggregate: "batch",
		Guard:     guard.All(batchStatus(), guard.Ledger{}),
		Lock:      lock.NewLocal(), // several processes share lock.NewRedis or lock.NewPostgres
		Logger:    slog.New(slog.DiscardHandler),
	})
	check(err)
	check(fin.Migrate(context.Background()))

	var triggers sync.WaitGroup
	for _, trigger := range []finalize.Trigger{"periodic", "threshold", "sweep"} {
		triggers.Go(func() {
			_, err := finalize.DoPrepared(context.Background(), fin, guard.Text("b1"), trigger, finalize.Stages[*sql.Tx, float64]{
				Prepare: func(ctx context.Context) (score float64, err error) {
					fmt.Println("scoring") // long, with no transaction open
					return 0.75, nil
				},
				Commit: func(ctx context.Context, tx *sql.Tx, score float64) (finalize.Outcome, error) {
					return finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{
						{Type: "assessment.completed", Payload: fmt.Appendf(nil, `{"score":%v}`, score)},
					}}, nil
				},
			})
			check(err)
		})
	}
	triggers.Wait()
	var payload string
	check(db.QueryRow(`SELECT payload FROM endstate_outbox`).Scan(&payload))
	fmt.Println(payload)
	// Output:
	// scoring
	// {"score":0.75}
}
