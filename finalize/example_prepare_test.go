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
func ExampleFinalizer_DoPrepared() {
	db, done := exampleDB()
	defer done()
	fin, err := finalize.NewSQL(db, &finalize.Config{
		Aggregate: "batch",
		Guard:     guard.All(batchStatus(), guard.Ledger{}),
		Lock:      finalize.LockConfig{Locker: lock.NewLocal()}, // several processes share lock.NewPostgres or lockredis.New
		Logger:    slog.New(slog.DiscardHandler),
	})
	check(err)
	check(fin.Migrate(context.Background()))

	var triggers sync.WaitGroup
	for _, trigger := range []finalize.Trigger{"periodic", "threshold", "sweep"} {
		triggers.Go(func() {
			_, err := fin.DoPrepared(context.Background(), guard.Text("b1"), trigger, func(ctx context.Context) (finalize.Func[*sql.Tx], error) {
				fmt.Println("scoring") // long, with no transaction open
				score := 0.75
				return func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) { // short, in the one that finalizes
					return finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{
						{Type: "assessment.completed", Payload: fmt.Appendf(nil, `{"score":%v}`, score)},
					}}, nil
				}, nil
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
