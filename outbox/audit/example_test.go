package audit_test

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/endstate-go/endstate/outbox/audit"
)

// A batch whose completion was written three times within a second.
func Example() {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		panic(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // each connection would have a memory of its own
	_, err = db.Exec(`CREATE TABLE event_outbox (aggregate_id text, event_type text, created_at text, published_at text);
INSERT INTO event_outbox VALUES
	('batch-1', 'completed', '2025-11-15 18:59:43.000', '2025-11-15 19:00:00'),
	('batch-1', 'completed', '2025-11-15 18:59:43.055', '2025-11-15 19:00:00'),
	('batch-1', 'completed', '2025-11-15 18:59:43.110', NULL),
	('batch-2', 'completed', '2025-11-15 19:10:00.000', NULL)`)
	if err != nil {
		panic(err)
	}
	report, err := audit.RunSQL(context.Background(), db, audit.Config{EventTypes: []string{"completed%"}})
	if err != nil {
		panic(err)
	}
	fmt.Printf("%d duplicates of %d aggregates (%.2f %%), %d of them published\n", report.Duplicates, report.Aggregates, report.Percentage, report.Published)
	for _, worst := range report.Worst {
		fmt.Printf("%s: %d events, median gap %.0f ms: %s\n", worst.ID, worst.Events, *worst.MedianGap, worst.Pattern)
	}
	// Output:
	// 2 duplicates of 2 aggregates (100.00 %), 1 of them published
	// batch-1: 3 events, median gap 55 ms: tight_loop
}
