package outbox_test

import (
	"fmt"

	"github.com/endstate-go/endstate/outbox"
)

// A writer for a table that endstate adopt has given its unique index: the service's relay goes on publishing from it.
func ExampleColumns() {
	writer := outbox.Writer{Table: "event_outbox", Columns: &outbox.Columns{
		ID:          "event_id",
		AggregateID: "aggregate_id",
		Type:        "event_type",
		Payload:     "event_data",
		PayloadType: "jsonb",
		OccurredAt:  "created_at",
		Set:         map[string]string{"topic": "assessments"},
	}}
	fmt.Println(writer.Validate()) // finalize.New does this; give it as finalize.Config.Outbox
	// Output: <nil>
}
