package endstate_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// Two triggers come to finalize one batch, and one does.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "endstate")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "service.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`CREATE TABLE batches (id TEXT PRIMARY KEY, status TEXT NOT NULL); INSERT INTO batches VALUES ('batch-1', 'PENDING')`); err != nil {
		log.Fatal(err)
	}

	fin, err := finalize.NewSQL(db, &finalize.Config{
		Aggregate: "batch",
		Guard: guard.All(
			guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")},
			guard.Ledger{},
		),
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := fin.Migrate(ctx); err != nil {
		log.Fatal(err)
	}
	for _, trigger := range []finalize.Trigger{"threshold", "sweep"} {
		receipt, err := fin.Do(ctx, guard.Text("batch-1"), trigger, func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
			return finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "batch.completed", Payload: []byte(`{}`)}}}, nil
		})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s won: %t. The batch is %s, by %s\n", trigger, receipt.Won, receipt.State, receipt.Trigger)
	}
	// Output:
	// threshold won: true. The batch is COMPLETE, by threshold
	// sweep won: false. The batch is COMPLETE, by threshold
}
