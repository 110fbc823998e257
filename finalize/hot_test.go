package finalize_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// The incident's storm: the guard keeps it harmless, and its key is reported, once. Ordinary losers are not.
func TestARunawayLoopIsSeen(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]bool{"cached": false, "uncached": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var logged bytes.Buffer
			each(t, func(t *testing.T, w *world) {
				key := w.open("storm", "ordinary")
				for _, trigger := range []finalize.Trigger{"periodic", "threshold", "sweep"} {
					_, err := w.do(t.Context(), guard.Text("ordinary"), trigger, complete("ordinary"))
					require.NoError(t, err)
				}
				for i := range 83 {
					trigger := finalize.Trigger("periodic")
					if i%2 == 1 {
						trigger = "threshold"
					}
					var err error
					if i%3 == 0 {
						_, err = w.settle(t.Context(), key, trigger, completed())
					} else {
						_, err = w.do(t.Context(), key, trigger, complete("storm"))
					}
					require.NoError(t, err)
				}
				require.Len(t, w.trace.hot, 1)
				hot := w.trace.hot[0]
				require.Equal(t, "batch storm", hot.Ref.String())
				require.Equal(t, 30, hot.Count)
				require.ElementsMatch(t, []finalize.Trigger{"periodic", "threshold"}, hot.Triggers)
				require.Equal(t, "COMPLETE_STABLE", hot.State)
				require.Positive(t, hot.Window)
				w.requireFinal("storm", "COMPLETE_STABLE", "batch.completed")

				lines := strings.Split(strings.TrimSpace(logged.String()), "\n")
				require.Len(t, lines, 1, "one warning, and nothing else above debug level but the wins")
				require.Contains(t, lines[0], `level=WARN msg="finalized again and again: a caller may be in a loop" aggregate=batch key=storm state=COMPLETE_STABLE count=30`)
			}, on("sqlite"), guardedBy("all"), configured(func(c *finalize.Config) {
				c.Cache.Off = off
				c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelWarn}))
			}))
		})
	}
}

func TestHotThresholds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		for range 4 {
			_, err := w.settle(t.Context(), key, "t", completed())
			require.NoError(t, err)
		}
		require.Len(t, w.trace.hot, 1)
		require.Equal(t, 3, w.trace.hot[0].Count)
	}, on("pgx"), guardedBy("status"), configured(func(c *finalize.Config) {
		c.Hot = finalize.HotConfig{Count: 3, Window: time.Hour}
	}))
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		for range 40 {
			_, err := w.settle(t.Context(), key, "t", completed())
			require.NoError(t, err)
		}
		require.Empty(t, w.trace.hot)
	}, on("pgx"), guardedBy("status"), configured(func(c *finalize.Config) { c.Hot.Off = true }))
}
