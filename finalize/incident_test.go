package finalize_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// The tests that were drafted when the incident was investigated, by their names, in their four categories. They asked how
// often a batch's completion was published. Through a Finalizer the answer is always once.

// incidentService is the service of the incident: callbacks come in, and four triggers call one function.
type incidentService struct {
	*world
	id                string
	comparisons, done int
	calls             map[finalize.Trigger]int // how often a trigger fired
	wins, notReady    map[finalize.Trigger]int
}

const (
	periodicTrigger  finalize.Trigger = "periodic"
	thresholdTrigger finalize.Trigger = "threshold"
	sweepTrigger     finalize.Trigger = "sweep"
	recoveryTrigger  finalize.Trigger = "recovery"
)

func newIncidentService(w *world, comparisons int) *incidentService {
	id := fmt.Sprintf("batch-of-%d", comparisons)
	w.open(id)
	w.exec("UPDATE batches SET note = '0' WHERE id = $1", id)
	return &incidentService{world: w, id: id, comparisons: comparisons,
		calls: map[finalize.Trigger]int{}, wins: map[finalize.Trigger]int{}, notReady: map[finalize.Trigger]int{}}
}

// callback counts a comparison and fires the triggers that it concerns.
func (s *incidentService) callback() {
	s.t.Helper()
	s.done++
	s.exec("UPDATE batches SET note = $1 WHERE id = $2", strconv.Itoa(s.done), s.id)
	if s.done%5 == 0 {
		s.fire(periodicTrigger)
	}
	if s.done*100 >= s.comparisons*80 {
		s.fire(thresholdTrigger)
	}
}

// fire calls finalize_scoring.
func (s *incidentService) fire(trigger finalize.Trigger) finalize.Receipt {
	s.t.Helper()
	s.calls[trigger]++
	r, err := s.do(s.t.Context(), guard.Text(s.id), trigger, func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
		var note string
		if err := tx.QueryRow(ctx, "SELECT note FROM batches WHERE id = $1", s.id).Scan(&note); err != nil {
			return finalize.Outcome{}, err
		}
		done, err := strconv.Atoi(note)
		if err != nil {
			return finalize.Outcome{}, err
		}
		if done*100 < s.comparisons*80 {
			return finalize.Outcome{}, finalize.ErrNotReady
		}
		return finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{
			{Type: "assessment.completed", Payload: []byte(`{"thin":true}`)},
			{Type: "assessment.result", Payload: []byte(`{"rich":true}`)},
			{Type: "resource.consumed", Payload: []byte(`{"credits":1}`)},
		}}, nil
	})
	if errors.Is(err, finalize.ErrNotReady) {
		s.notReady[trigger]++
		return finalize.Receipt{}
	}
	require.NoError(s.t, err)
	if r.Won {
		s.wins[trigger]++
	}
	return r
}

func (s *incidentService) requirePublishedOnce() {
	s.t.Helper()
	s.requireFinal(s.id, "COMPLETE_STABLE", "assessment.completed", "assessment.result", "resource.consumed")
}

func incident(t *testing.T, name string, run func(t *testing.T, w *world)) {
	t.Run(name, func(t *testing.T) { each(t, run, guardedBy("status", "all")) })
}

// Category 1: when each trigger fires.
func TestIncidentTriggerIsolation(t *testing.T) {
	incident(t, "test_periodic_trigger_fires_at_multiples_of_five", func(t *testing.T, w *world) {
		s := newIncidentService(w, 10)
		for range 5 {
			s.callback()
		}
		require.Equal(t, 1, s.calls[periodicTrigger])
		require.Equal(t, 1, s.notReady[periodicTrigger], "5 of 10 is too early, which the incident's trigger didn't know")
		s.requireOpen(s.id)
		for range 5 {
			s.callback()
		}
		require.Equal(t, 2, s.calls[periodicTrigger])
		s.requirePublishedOnce()
	})
	incident(t, "test_threshold_trigger_fires_at_completion_percentage", func(t *testing.T, w *world) {
		s := newIncidentService(w, 10)
		for range 7 {
			s.callback()
		}
		require.Zero(t, s.calls[thresholdTrigger])
		s.callback()
		require.Equal(t, 1, s.calls[thresholdTrigger])
		require.Equal(t, 1, s.wins[thresholdTrigger])
		s.requirePublishedOnce()
	})
	incident(t, "test_monitor_completion_sweep_behavior", func(t *testing.T, w *world) {
		s := newIncidentService(w, 10)
		s.done = 8 // the callbacks came in, the process that counted them died before it fired a trigger
		s.exec("UPDATE batches SET note = '8' WHERE id = $1", s.id)
		require.True(t, s.fire(sweepTrigger).Won)
		for range 3 {
			require.False(t, s.fire(sweepTrigger).Won, "every later sweep")
		}
		s.requirePublishedOnce()
	})
}

// Category 2: how triggers meet.
func TestIncidentTriggerInteraction(t *testing.T) {
	incident(t, "test_periodic_and_threshold_both_fire", func(t *testing.T, w *world) {
		s := newIncidentService(w, 10)
		for range 10 {
			s.callback()
		}
		require.Equal(t, 2, s.calls[periodicTrigger])
		require.Equal(t, 3, s.calls[thresholdTrigger])
		require.Equal(t, 1, s.wins[periodicTrigger]+s.wins[thresholdTrigger])
		s.requirePublishedOnce()
	})
	incident(t, "test_batch_state_after_first_completion", func(t *testing.T, w *world) {
		s := newIncidentService(w, 10)
		for s.wins[thresholdTrigger] == 0 {
			s.callback()
		}
		require.Equal(t, 8, s.done)
		r := s.fire(recoveryTrigger)
		require.False(t, r.Won, "the state prevents a second publication")
		require.Equal(t, "COMPLETE_STABLE", r.State)
		if r.Provenance {
			require.Equal(t, thresholdTrigger, r.Trigger)
		}
		s.requirePublishedOnce()
	})
}

// Category 3: the guard.
func TestIncidentIdempotencyGuard(t *testing.T) {
	incident(t, "test_finalize_scoring_with_completed_status", func(t *testing.T, w *world) {
		for _, state := range []string{"COMPLETE_STABLE", "COMPLETE_MAX_COMPARISONS", "COMPLETE_INSUFFICIENT_ESSAYS", "ERROR_PROCESSING", "ERROR_ESSAY_PROCESSING"} {
			key := w.open(state)
			out := finalize.Outcome{State: state, Events: []outbox.Event{{Type: "assessment.completed", Payload: []byte(`{}`)}}}
			_, err := w.settle(t.Context(), key, "first", out)
			require.NoError(t, err)
			r, err := w.do(t.Context(), key, "second", never(t))
			require.NoError(t, err)
			require.False(t, r.Won)
			require.Equal(t, state, r.State)
			w.requireFinal(state, state, "assessment.completed")
		}
		for _, state := range []string{"PENDING", "FETCHING_CONTENT", "PERFORMING_COMPARISONS"} {
			key := w.open("in " + state)
			w.exec("UPDATE batches SET status = $2 WHERE id = $1", "in "+state, state)
			r, err := w.do(t.Context(), key, "first", complete("in "+state))
			require.NoError(t, err)
			require.True(t, r.Won, "%s is not terminal", state)
		}
	})
	incident(t, "test_finalize_scoring_called_twice_sequentially", func(t *testing.T, w *world) {
		s := newIncidentService(w, 1)
		s.exec("UPDATE batches SET note = '1' WHERE id = $1", s.id)
		require.True(t, s.fire(thresholdTrigger).Won)
		require.False(t, s.fire(thresholdTrigger).Won)
		s.requirePublishedOnce()
	})
}

// Category 4: as in production.
func TestIncidentProductionScenarios(t *testing.T) {
	lifecycle := func(comparisons, thresholdCalls, periodicCalls int) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			s := newIncidentService(w, comparisons)
			for range comparisons {
				s.callback()
			}
			s.fire(sweepTrigger)
			s.fire(recoveryTrigger)
			require.Equal(t, thresholdCalls, s.calls[thresholdTrigger])
			require.Equal(t, periodicCalls, s.calls[periodicTrigger])
			require.Equal(t, 1, s.wins[thresholdTrigger]+s.wins[periodicTrigger])
			require.Zero(t, s.wins[sweepTrigger]+s.wins[recoveryTrigger])
			s.requirePublishedOnce()
		}
	}
	incident(t, "test_small_batch_full_lifecycle_trigger_count", lifecycle(10, 3, 2))
	incident(t, "test_large_batch_full_lifecycle_trigger_count", lifecycle(100, 21, 20))
}
