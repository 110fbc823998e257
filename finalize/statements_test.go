package finalize

import (
	"fmt"
	"testing"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqlgolden"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/outbox"
)

// The statements that a finalizer sends through pgx, as they are joined of the guards' and the outbox's.
func TestJoinedStatements(t *testing.T) {
	status := guard.Status{Table: "orders", Key: "id", Column: "status", Terminal: guard.Names("PAID", "FAILED"), Set: map[string]any{"completed_at": guard.Now, "completed_by": guard.By}}
	partitioned := guard.Status{Schema: "billing", Table: "charges", Keys: []string{"id", "created_at"}, Column: "state", Terminal: guard.Prefixes("DONE_")}
	mapped := outbox.Writer{Table: "event_outbox", Columns: &outbox.Columns{ID: "event_id", AggregateID: "aggregate_id", Type: "event_type", Payload: "event_data", PayloadType: "json"}}
	for name, tt := range map[string]struct {
		guard  guard.Guard
		shape  string
		outbox outbox.Writer
	}{
		"status":            {status, "u", outbox.Writer{}},
		"ledger":            {guard.Ledger{}, "t", outbox.Writer{}},
		"status-and-ledger": {guard.All(status, guard.Ledger{}), "t", outbox.Writer{}},
		"partitioned":       {partitioned, "is", mapped},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJoined(guard.All(tt.guard).(guards).Plans(tt.shape), tt.outbox)
			var f sqlgolden.File
			for i, statements := range j.claim {
				for _, st := range statements {
					f.Add(fmt.Sprintf("Do: claim by guard %d", i+1), st.SQL)
				}
			}
			f.Add("Do: read the winner's record", j.read.SQL)
			// The forms differ in the number of their rows alone, and in whether these are of usual events.
			forms := map[sqlplan.Form]string{0: "no events", 1: "one usual event", 2: "two usual events", sqlplan.FewEvents + 1: "one event of any kind", sqlplan.Forms - 1: "many events"}
			for form := range sqlplan.Form(sqlplan.Forms) {
				if title, ok := forms[form]; ok {
					f.Add("Do: settle with "+title, j.finish[form]().SQL)
				}
			}
			f.Add("Do: look again, where triggers may have changed what was settled", j.again.SQL)
			for form := range sqlplan.Form(sqlplan.Forms) {
				if title, ok := forms[form]; ok {
					f.Add("Settle with "+title, j.settle[form]().SQL)
				}
			}
			f.Add("SettleMany, and Settles that are gathered, with one usual event each", j.bulk.each.hopeful().SQL)
			f.Add("SettleMany with one usual event each: where a row was held elsewhere", j.bulk.each.careful().SQL)
			f.Add("SettleMany, and Settles that are gathered, with any events", j.bulk.any.hopeful().SQL)
			f.Add("SettleMany with any events: where a row was held elsewhere", j.bulk.any.careful().SQL)
			f.Add("SettleMany: read the winners' records", j.bulk.read().SQL)
			f.Add("SettleMany: look again", j.bulk.again().SQL)
			f.Require(t, name)
		})
	}
}
