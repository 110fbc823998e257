// Command quickstart lets two triggers race to finalize one batch. Exactly one wins; the other gets the winner's receipt.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"sync"

	_ "modernc.org/sqlite"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

func main() {
	ctx := context.Background()
	dir := must(os.MkdirTemp("", "quickstart"))
	defer os.RemoveAll(dir)
	db := must(sql.Open("sqlite", "file:"+dir+"/quickstart.db?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)"))
	defer db.Close()
	must(db.Exec(`CREATE TABLE batches (id TEXT PRIMARY KEY, status TEXT NOT NULL)`))
	must(db.Exec(`INSERT INTO batches VALUES ('batch-1', 'PENDING')`))

	// The one door: a status column decides, a ledger remembers who won.
	status := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")}
	fin := must(finalize.NewSQL(db, &finalize.Config{Aggregate: "batch", Guard: guard.All(status, guard.Ledger{})}))
	must(0, fin.Migrate(ctx)) // the ledger and the outbox

	var race sync.WaitGroup
	for _, trigger := range []finalize.Trigger{"threshold", "sweep"} {
		race.Go(func() {
			receipt := must(fin.Do(ctx, guard.Text("batch-1"), trigger, func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
				// The work goes here. Return finalize.ErrNotReady if it is too early.
				return finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{
					{Type: "assessment.completed", Payload: []byte(`{"batch":"batch-1"}`)},
				}}, nil
			}))
			fmt.Printf("%-9s won: %-5t  the batch is %s since %s, by %s\n", trigger, receipt.Won, receipt.State, receipt.At.Format("15:04:05.000"), receipt.Trigger)
		})
	}
	race.Wait()
	var events int
	must(0, db.QueryRow(`SELECT count(*) FROM endstate_outbox`).Scan(&events))
	fmt.Println("events in the outbox:", events)
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
