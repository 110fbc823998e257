package adopt_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/outbox/adopt"
)

// A service's table with duplicate completions gets its unique index, and a column for the writer's dedup key.
func ExampleAdoption_Apply() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://localhost/assessments")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	adoption, err := adopt.New(pool, adopt.Config{
		Table:      "event_outbox",
		Aggregate:  []string{"aggregate_id"},
		EventTypes: []string{"%.completed"},
		Add:        []adopt.Column{{Name: "dedup_key", Type: "text"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	plan, err := adoption.Plan(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d rows of %d aggregates will go into %s\n", plan.Duplicates, plan.Aggregates, plan.Backup)
	result, err := adoption.Apply(ctx) // after an error, or a kill, once more
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the table has its index", result.Index)
}
