package outboxtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
)

// A publisher that fails until the test says otherwise.
func ExampleRecorder() {
	var recorder outboxtest.Recorder
	recorder.Answer(func(context.Context, outbox.Event) error { return errors.New("the broker is down") })

	batch := []outbox.Event{{AggregateType: "order", AggregateID: "7", Type: "order.paid", Payload: []byte(`{}`)}}
	fmt.Println(recorder.Publish(context.Background(), batch))
	recorder.Answer(nil)
	fmt.Println(recorder.Publish(context.Background(), batch))
	for _, e := range recorder.Events() {
		fmt.Println(e.Type, e.AggregateID)
	}
	// Output:
	// [the broker is down]
	// []
	// order.paid 7
}

// pay is code of a service, which a test looks at from within its transaction.
func pay(ctx context.Context, tx *sql.Tx, order string, credits int) error {
	_, err := outbox.Put(ctx, endstate.SQLiteTx(tx), outbox.Event{
		AggregateType: "order", AggregateID: order, Type: "order.paid", Payload: fmt.Appendf(nil, `{"credits":%d}`, credits),
	})
	return err
}

func ExampleRequirePut() {
	t, tx, done := exampleTest() // a *testing.T, and a transaction on the test's database
	defer done()

	if err := pay(t.Context(), tx, "7", 3); err != nil {
		t.Fatal(err)
	}
	type paid struct{ Credits int }
	e := outboxtest.RequirePut(t, endstate.SQLiteTx(tx), outboxtest.Match{
		Type: "order.paid", AggregateID: "7", Payload: outboxtest.JSON(func(p paid) bool { return p.Credits == 3 }),
	})
	outboxtest.RequireNotPut(t, endstate.SQLiteTx(tx), outboxtest.Match{Type: "order.cancelled"})
	fmt.Println(e.Type, e.AggregateID)
	// Output: order.paid 7
}

func exampleTest() (t testing.TB, tx *sql.Tx, done func()) {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		panic(err)
	}
	if tx, err = db.Begin(); err != nil {
		panic(err)
	}
	t = &failing{}
	if err := (outbox.Writer{}).Migrate(t.Context(), endstate.SQLiteTx(tx)); err != nil {
		panic(err)
	}
	return t, tx, func() { _ = errors.Join(tx.Rollback(), db.Close()) }
}
