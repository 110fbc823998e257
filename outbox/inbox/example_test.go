package inbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	_ "modernc.org/sqlite"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/inbox/inboxredis"
)

// exampleDB is a SQLite database with an empty table of credits.
func exampleDB() (db *sql.DB, done func()) {
	dir, err := os.MkdirTemp("", "example")
	check(err)
	db, err = sql.Open("sqlite", "file:"+filepath.Join(dir, "example.db")+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)")
	check(err)
	_, err = db.Exec(`CREATE TABLE credits (batch TEXT)`)
	check(err)
	return db, func() {
		check(db.Close())
		check(os.RemoveAll(dir))
	}
}

func exampleTable(db *sql.DB, cfg inbox.TableConfig) *inbox.Table[*sql.Tx] {
	cfg.Logger = slog.New(slog.DiscardHandler)
	table, err := inbox.NewTableSQL(db, &cfg)
	check(err)
	check(table.Migrate(context.Background()))
	return table
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func completed(id string) outbox.Event {
	return outbox.Event{ID: uuid.MustParse(id), AggregateType: "batch", AggregateID: "batch-1", Type: "assessment.completed", Payload: []byte(`{"credits":5}`)}
}

const (
	first  = "018f0000-0000-7000-8000-000000000001"
	second = "018f0000-0000-7000-8000-000000000002"
)

func bookCredit(ctx context.Context, tx *sql.Tx, event outbox.Event) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO credits VALUES (?)`, event.AggregateID)
	return err
}

func booked(db *sql.DB) (n int) {
	check(db.QueryRow(`SELECT count(*) FROM credits`).Scan(&n))
	return n
}

// The main use: the credit and the record that the event was handled commit together.
func ExampleTable() {
	db, done := exampleDB()
	defer done()
	handle := inbox.Handle(exampleTable(db, inbox.TableConfig{Consumer: "entitlements"}), bookCredit)
	for range 3 { // the relay delivers at least once
		result, err := handle(context.Background(), completed(first))
		check(err)
		fmt.Println(result.Outcome)
	}
	fmt.Println("credits:", booked(db))
	// Output:
	// applied
	// repeated
	// repeated
	// credits: 1
}

// On PostgreSQL, with pgx.
func ExampleNewTable() {
	pool, err := pgxpool.New(context.Background(), "postgres:///service")
	check(err)
	defer pool.Close()
	table, err := inbox.NewTable(pool, &inbox.TableConfig{Consumer: "results"})
	check(err)
	handler := inbox.Handle(table, func(ctx context.Context, tx pgx.Tx, event outbox.Event) error {
		_, err := tx.Exec(ctx, `INSERT INTO results (batch, result) VALUES ($1, $2)`, event.AggregateID, event.Payload)
		return err
	})
	_ = handler // for webhook.Receiver.Handler, redisstream.NewConsumer, natsjs.NewConsumer, kafka.NewConsumer
}

// The incident: two triggers announced one completion, each by an event of its own. A consumer that goes by event ids charges
// twice; one that goes by what it charges for doesn't.
func ExampleTableConfig_businessKey() {
	for name, key := range map[string]func(outbox.Event) (string, error){
		"by event id": nil,
		"by batch":    func(e outbox.Event) (string, error) { return "credit/" + e.AggregateID, nil },
	} {
		db, done := exampleDB()
		handle := inbox.Handle(exampleTable(db, inbox.TableConfig{Consumer: "entitlements", Key: key}), bookCredit)
		for _, id := range []string{first, second} {
			_, err := handle(context.Background(), completed(id))
			check(err)
		}
		fmt.Printf("%s: %d credits\n", name, booked(db))
		done()
	}
	// Unordered output:
	// by event id: 2 credits
	// by batch: 1 credits
}

// The first handling's result is handed to repeats.
func ExampleTable_Results() {
	db, done := exampleDB()
	defer done()
	table := exampleTable(db, inbox.TableConfig{Consumer: "entitlements"})
	n := 0
	handle := inbox.Handle(table.Results(), func(ctx context.Context, tx *sql.Tx, event outbox.Event) ([]byte, error) {
		n++
		return fmt.Appendf(nil, "receipt %d", n), bookCredit(ctx, tx, event)
	})
	for range 2 {
		result, err := handle(context.Background(), completed(first))
		check(err)
		fmt.Printf("%s: %s\n", result.Outcome, result.Value)
	}
	// Output:
	// applied: receipt 1
	// repeated: receipt 1
}

// An event that fails too often is kept, and handled again when its cause is fixed.
func ExampleTable_Retry() {
	db, done := exampleDB()
	defer done()
	ctx := context.Background()
	table := exampleTable(db, inbox.TableConfig{Consumer: "entitlements", MaxAttempts: 2})
	handle := inbox.Handle(table, func(context.Context, *sql.Tx, outbox.Event) error { return errors.New("no such account") })
	for range 2 {
		result, err := handle(ctx, completed(first))
		fmt.Println(result.Outcome, err != nil)
	}
	letters, err := table.DeadLetters(ctx, 10)
	check(err)
	for _, letter := range letters {
		fmt.Printf("%s, %d attempts: %s\n", letter.Event.Type, letter.Attempts, letter.Err)
		result, err := table.Retry(ctx, letter.Key, bookCredit)
		check(err)
		fmt.Println(result.Outcome)
	}
	// Output:
	// none true
	// dead-lettered false
	// assessment.completed, 2 attempts: no such account
	// applied
}

// A consumer that moves an aggregate of its own: the finalizer's guard refuses the second transition.
func ExampleStatus() {
	db, done := exampleDB()
	defer done()
	ctx := context.Background()
	_, err := db.Exec(`CREATE TABLE batches (id TEXT PRIMARY KEY, status TEXT); INSERT INTO batches VALUES ('batch-1', 'PROCESSING')`)
	check(err)
	fin, err := finalize.NewSQL(db, &finalize.Config{Aggregate: "batch", Logger: slog.New(slog.DiscardHandler), Guard: guard.All(
		guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")}, guard.Ledger{})})
	check(err)
	check(fin.Migrate(ctx))

	status := inbox.Status[*sql.Tx](func(ctx context.Context, event outbox.Event, cause string, effect func(context.Context, *sql.Tx) error) (bool, string, error) {
		receipt, err := fin.Do(ctx, guard.Text(event.AggregateID), finalize.Trigger(cause), func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
			return finalize.Outcome{State: "COMPLETE"}, effect(ctx, tx)
		})
		return receipt.Won, string(receipt.Trigger), err
	})
	handle := inbox.Handle(status, bookCredit)

	altered := completed(first)
	altered.Payload = []byte(`{"credits":500}`)
	for _, event := range []outbox.Event{completed(first), completed(first), completed(second), altered} {
		result, err := handle(ctx, event)
		fmt.Println(result.Outcome, errors.Is(err, inbox.ErrPayloadMismatch))
	}
	fmt.Println("credits:", booked(db))
	// Output:
	// applied false
	// repeated false
	// repeated false
	// none true
	// credits: 1
}

// An effect that no transaction of ours holds: Redis drops the repeats, and the provider's idempotency key is for the crash
// between the effect and the mark.
func ExampleClaims() {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
	defer client.Close()
	store, err := inboxredis.New(client, "")
	check(err)
	claims, err := inbox.NewClaims(store, &inbox.ClaimsConfig{
		Consumer: "payments",
		Key:      func(e outbox.Event) (string, error) { return "payment/" + e.AggregateID, nil },
	})
	check(err)
	handler := inbox.Handle(claims, func(ctx context.Context, event outbox.Event) error {
		return pay(ctx, "payment/"+event.AggregateID) // keyed
	})
	_ = handler
}

func pay(context.Context, string) error { return nil }

// A Handler is a function: metrics and traces go around it.
func ExampleHandler() {
	db, done := exampleDB()
	defer done()
	counts := map[inbox.Outcome]int{}
	counted := func(next inbox.Handler) inbox.Handler {
		return func(ctx context.Context, event outbox.Event) (inbox.Result, error) {
			result, err := next(ctx, event)
			counts[result.Outcome]++
			return result, err
		}
	}
	handle := counted(inbox.Handle(exampleTable(db, inbox.TableConfig{Consumer: "entitlements"}), bookCredit))
	for range 4 {
		_, err := handle(context.Background(), completed(first))
		check(err)
	}
	fmt.Println(counts[inbox.Applied], counts[inbox.Repeated])
	// Output: 1 3
}

// A third party's webhook: its id is no UUID, so it is the key. Two of its types are of no concern.
func ExampleTable_idsOfOthers() {
	db, done := exampleDB()
	defer done()
	handle := inbox.Handle(exampleTable(db, inbox.TableConfig{
		Consumer: "invoices",
		Types:    []string{"invoice.*"},
		Key:      func(e outbox.Event) (string, error) { return e.Headers["id"], nil },
	}), func(ctx context.Context, tx *sql.Tx, event outbox.Event) error {
		if event.Type == "invoice.updated" {
			return inbox.ErrSkip
		}
		return bookCredit(ctx, tx, event)
	})
	for _, e := range []outbox.Event{
		{Headers: map[string]string{"id": "evt_122"}, Type: "customer.created"},
		{Headers: map[string]string{"id": "evt_123"}, Type: "invoice.updated"},
		{Headers: map[string]string{"id": "evt_124"}, Type: "invoice.paid"},
		{Headers: map[string]string{"id": "evt_124"}, Type: "invoice.paid"},
	} {
		result, err := handle(context.Background(), e)
		check(err)
		fmt.Println(e.Headers["id"], result.Outcome)
	}
	fmt.Println("credits:", booked(db))
	// Output:
	// evt_122 skipped
	// evt_123 skipped
	// evt_124 applied
	// evt_124 repeated
	// credits: 1
}
