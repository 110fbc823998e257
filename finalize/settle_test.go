package finalize_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

func TestSettleWinsOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		won, err := w.settle(t.Context(), key, "sweep", completed())
		require.NoError(t, err)
		require.True(t, won.Won)
		require.False(t, won.Differs)
		require.Equal(t, "COMPLETE_STABLE", won.State)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")

		lost, err := w.settle(t.Context(), key, "threshold", completed())
		require.NoError(t, err)
		requireSameReceipt(t, w, won, lost)
		require.False(t, lost.Differs)
		lost, err = w.do(t.Context(), key, "threshold", never(t))
		require.NoError(t, err)
		requireSameReceipt(t, w, won, lost)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
		require.Equal(t, [4]int{1, 2, 0, 0}, w.trace.counts())
	})
}

// What a losing Settle compares, answered by the database and from memory: the state, and with CompareEvents the events.
func TestALosingSettleIsToldWhatDiffers(t *testing.T) {
	t.Parallel()
	for _, compare := range []bool{false, true} {
		for _, cached := range []bool{false, true} {
			t.Run(fmt.Sprintf("CompareEvents=%v, cached=%v", compare, cached), func(t *testing.T) {
				t.Parallel()
				testDiffers(t, compare, cached)
			})
		}
	}
}

func testDiffers(t *testing.T, compare, cached bool) {
	each(t, func(t *testing.T, w *world) {
		told := compare && w.hasLedger()
		event := func(change func(*outbox.Event)) finalize.Outcome {
			e := outbox.Event{Type: "batch.completed", Payload: []byte(`{"ok":true}`), Headers: map[string]string{"a": "1", "b": "2"}}
			change(&e)
			return finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{e}}
		}
		same := event(func(*outbox.Event) {})
		key := w.open("b1")
		_, err := w.settle(t.Context(), key, "sweep", same)
		require.NoError(t, err)

		anotherState := same
		anotherState.State = "ERROR_PROCESSING"
		more := same
		more.Events = append([]outbox.Event{{Type: "first", Payload: []byte("1")}}, same.Events...)
		for _, c := range []struct {
			name    string
			out     finalize.Outcome
			differs bool
		}{
			{"nothing", same, false},
			{"ids and times", event(func(e *outbox.Event) { e.ID[3], e.OccurredAt = 7, e.OccurredAt.AddDate(2025, 0, 0) }), false},
			{"defaults spelled out", event(func(e *outbox.Event) {
				e.AggregateType, e.AggregateID, e.ContentType, e.SchemaVersion, e.DedupKey = "batch", "b1", "application/json", 1, "batch/t:b1#batch.completed"
			}), false},
			{"the state", anotherState, true},
			{"the payload", event(func(e *outbox.Event) { e.Payload = []byte(`{"ok": true}`) }), told},
			{"the type", event(func(e *outbox.Event) { e.Type = "batch.failed" }), told},
			{"a header", event(func(e *outbox.Event) { e.Headers = map[string]string{"a": "1", "b": "3"} }), told},
			{"the version", event(func(e *outbox.Event) { e.SchemaVersion = 2 }), told},
			{"the dedup key", event(func(e *outbox.Event) { e.DedupKey = "other" }), told},
			{"one more event", more, told},
			{"no event", finalize.Outcome{State: "COMPLETE_STABLE"}, told},
		} {
			lost, err := w.settle(t.Context(), key, "threshold", c.out)
			require.NoError(t, err, c.name)
			require.False(t, lost.Won, c.name)
			require.Equal(t, "COMPLETE_STABLE", lost.State, c.name)
			require.Equal(t, c.differs, lost.Differs, c.name)
		}
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
	}, configured(func(c *finalize.Config) {
		c.CompareEvents = compare
		c.Cache.Off = !cached
	}))
}

// A losing Do has nothing to compare.
func TestALosingDoDoesNotDiffer(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		_, err := w.settle(t.Context(), key, "sweep", quietly())
		require.NoError(t, err)
		lost, err := w.do(t.Context(), key, "threshold", never(t))
		require.NoError(t, err)
		require.False(t, lost.Differs)
		require.Equal(t, "ERROR_QUIET", lost.State)
	})
}

// Code that bypassed the ledger, or the status, is seen: it is neither a win nor a crash, and nothing is written.
func TestAnomaliesAreSeenAndRepaired(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		entry := func(id, state string) {
			w.exec(`INSERT INTO endstate_ledger (aggregate, "key", state, "trigger", token, at) VALUES ('batch', $1, $2, 'bypass', '6ba7b810-9dad-11d1-80b4-00c04fd430c8', '2025-11-15T18:59:43Z')`,
				guard.Text(id).Encode(), state)
		}
		w.open("status alone", "ledger alone", "both differ")
		w.exec("UPDATE batches SET status = 'COMPLETE_STABLE' WHERE id IN ('status alone', 'both differ')")
		entry("ledger alone", "COMPLETE_STABLE")
		entry("both differ", "ERROR_PROCESSING")
		w.exec("DELETE FROM transitions")

		dump := func() []string {
			return append(w.text("SELECT id || coalesce(status, '') FROM batches ORDER BY 1"), w.text(`SELECT "key" || state FROM endstate_ledger ORDER BY 1`)...)
		}
		before := dump()
		for _, id := range []string{"status alone", "ledger alone", "both differ"} {
			check := func(r finalize.Receipt, err error) {
				t.Helper()
				require.ErrorIs(t, err, guard.ErrAnomaly)
				var anomaly *guard.AnomalyError
				require.ErrorAs(t, err, &anomaly)
				require.Equal(t, "batch "+id, anomaly.Ref.String())
				require.Len(t, anomaly.Records, 2)
				require.Equal(t, id != "ledger alone", anomaly.Records[0].Record.Final)
				require.Equal(t, id != "status alone", anomaly.Records[1].Record.Final)
				require.Zero(t, r)
			}
			check(w.do(t.Context(), guard.Text(id), "sweep", never(t)))
			check(w.settle(t.Context(), guard.Text(id), "sweep", completed()))
			tx, err := w.begin(t.Context(), "")
			require.NoError(t, err)
			require.NoError(t, write(t.Context(), tx, "caller "+id))
			check(tx.doTx(t.Context(), guard.Text(id), "sweep", never(t)))
			require.NoError(t, tx.Commit(t.Context()), "the caller's transaction stays usable")
			require.Equal(t, 1, w.writes("caller "+id))
		}
		require.Equal(t, before, dump())
		require.Zero(t, w.count("SELECT count(*) FROM transitions"))
		require.Zero(t, w.count("SELECT count(*) FROM endstate_outbox"))

		// The open one is settled through a finalizer that has just its guard.
		fix := func(g, id string) {
			r, err := connect(t, w.database, g, w.dsn, w.schema, tampered()).settle(t.Context(), guard.Text(id), "repair", completed())
			require.NoError(t, err)
			require.True(t, r.Won)
			r, err = w.do(t.Context(), guard.Text(id), "sweep", never(t))
			require.NoError(t, err)
			require.Equal(t, "COMPLETE_STABLE", r.State)
		}
		fix("ledger", "status alone")
		fix("status", "ledger alone")
	}, guardedBy("all"), tampered())
}
