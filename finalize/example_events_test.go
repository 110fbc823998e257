package finalize_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// Several events go in together, or none does: here one of them was charged already, under the dedup key that it shares with
// an earlier event, so that the batch stays open.
func ExampleOutcome_events() {
	db, done := exampleDB()
	defer done()
	fin := exampleFinalizer(db, batchStatus())
	ctx := context.Background()

	tx, err := db.BeginTx(ctx, nil)
	check(err)
	_, err = outbox.Put(ctx, endstate.SQLiteTx(tx), outbox.Event{
		AggregateType: "order", AggregateID: "7", Type: "charged", Payload: []byte(`{"credits":1}`), DedupKey: "charge-7",
	})
	check(err)
	check(tx.Commit())

	settle := func(charge string) (finalize.Receipt, error) {
		return fin.Settle(ctx, guard.Text("b1"), "sweep", finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{
			{Type: "assessment.completed", Payload: []byte(`{"batch":"b1"}`)},
			{Type: "assessment.result", Payload: []byte(`{"batch":"b1","ranking":[3,1,2]}`)},
			{Type: "charged", Payload: []byte(`{"credits":1}`), DedupKey: charge},
		}})
	}
	_, err = settle("charge-7")
	var conflict *finalize.EventConflictError
	if errors.As(err, &conflict) {
		fmt.Println("taken:", conflict.DedupKey)
	}
	r, err := settle("charge-8")
	check(err)
	fmt.Println("won:", r.Won)

	rows, err := db.Query(`SELECT type, dedup_key FROM endstate_outbox ORDER BY seq`)
	check(err)
	defer rows.Close()
	for rows.Next() {
		var eventType, key string
		check(rows.Scan(&eventType, &key))
		fmt.Println(eventType, key)
	}
	check(rows.Err())
	// Output:
	// taken: charge-7
	// won: true
	// charged charge-7
	// assessment.completed batch/t:b1#assessment.completed
	// assessment.result batch/t:b1#assessment.result
	// charged charge-8
}
