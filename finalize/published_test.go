package finalize_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// F29: a repeat stays a loser after the event was deleted, as those that are published are: the guard remembers, not the outbox.
func TestRepeatAfterTheEventHasGone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.open("b1")
		out := finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{{Type: "completed", Payload: []byte("{}")}}}
		first, err := w.settle(t.Context(), guard.Text("b1"), "sweep", out)
		require.NoError(t, err)
		require.True(t, first.Won)
		for range 2 {
			w.exec("DELETE FROM endstate_outbox")
			require.Zero(t, w.count("SELECT count(*) FROM endstate_outbox"))
			again, err := w.settle(t.Context(), guard.Text("b1"), "monitor", out)
			require.NoError(t, err)
			require.False(t, again.Won)
			require.Equal(t, first.State, again.State)
			require.Zero(t, w.count("SELECT count(*) FROM endstate_outbox"), "no second event")
		}
	}, tampered())
}
