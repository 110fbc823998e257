package finalize_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// F34: a call in a callback would wait for itself, or commit though the outer one rolls back.
func TestACallInACallbackIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1", "b2", "b3", "b4")
		var leaked context.Context
		inCallback := func(ctx context.Context) {
			leaked = ctx
			for _, other := range []guard.Key{key, guard.Text("b2")} {
				for name, call := range map[string]func() error{
					"Do":         func() error { _, err := w.do(ctx, other, "inner", complete("b2")); return err },
					"Settle":     func() error { _, err := w.settle(ctx, other, "inner", completed()); return err },
					"DoPrepared": func() error { _, err := w.prepare(ctx, other, "inner", stages{Prepare: neverPrepare(t)}); return err },
					"SettleMany": func() error {
						_, err := w.many(ctx, "inner", []finalize.Item{{Key: other, Outcome: completed()}})
						return err
					},
				} {
					err := call()
					require.ErrorIs(t, err, finalize.ErrNested, name)
					require.ErrorContains(t, err, "use DoTx", name)
				}
			}
		}
		runs := 0
		r, err := w.do(t.Context(), key, "outer", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			runs++
			inCallback(ctx)
			return complete("b1")(ctx, tx)
		})
		require.NoError(t, err)
		require.True(t, r.Won)
		require.Equal(t, 1, runs)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
		w.requireOpen("b2")

		// An error that the callback hands on ends the outer call.
		_, err = w.do(t.Context(), guard.Text("b2"), "outer", func(ctx context.Context, _ endstate.Tx) (finalize.Outcome, error) {
			_, err := w.do(ctx, guard.Text("b3"), "inner", complete("b3"))
			return completed(), err
		})
		require.ErrorIs(t, err, finalize.ErrNested)
		w.requireOpen("b2")

		// The context may outlive the callback, in work that it began.
		r, err = w.do(context.WithoutCancel(leaked), guard.Text("b4"), "later", complete("b4"))
		require.NoError(t, err)
		require.True(t, r.Won)
	})
}

// F34: other databases' finalizers, and work that is no callback, are not concerned; DoTx is what to use, but not for the
// callback's own aggregate.
func TestWhatMayBeCalledInACallback(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		elsewhere := newWorld(t, "sqlite", "ledger", dbtest.SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), "wal"))
		key := w.open("b1", "b2")
		tx, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		r, err := tx.doTx(t.Context(), key, "outer", func(ctx context.Context, _ endstate.Tx) (finalize.Outcome, error) {
			r, err := elsewhere.do(ctx, guard.Text("b1"), "there", complete("b1"))
			require.NoError(t, err)
			require.True(t, r.Won)
			_, err = w.do(ctx, guard.Text("b2"), "inner", complete("b2"))
			require.ErrorIs(t, err, finalize.ErrNested)
			_, err = tx.doTx(ctx, key, "inner", complete("b1"))
			require.ErrorIs(t, err, finalize.ErrNested)
			require.ErrorContains(t, err, "outcome")
			r, err = tx.doTx(ctx, guard.Text("b2"), "inner", complete("b2"))
			require.NoError(t, err)
			require.True(t, r.Won)
			return completed(), nil
		})
		require.NoError(t, err)
		require.True(t, r.Won)
		require.NoError(t, tx.Commit(t.Context()))
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
		w.requireFinal("b2", "COMPLETE_STABLE", "batch.completed")
	}, guardedBy("status", "all"))
}

// F34: a callback that waits for something else keeps its aggregate from everybody, and nothing says so but the log.
func TestATransactionThatIsIdleInACallbackIsLogged(t *testing.T) {
	t.Parallel()
	log := new(dbtest.Log)
	each(t, func(t *testing.T, w *world) {
		enough := errors.New("it waited for long enough")
		_, err := w.do(t.Context(), w.open("b-"+w.schema), "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			require.Eventually(t, func() bool { return strings.Contains(log.String(), "b-"+w.schema) }, long, time.Millisecond)
			return finalize.Outcome{}, enough
		})
		require.ErrorIs(t, err, enough)
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "b-"+w.schema) {
				require.Contains(t, line, "level=WARN")
				require.Contains(t, line, "trigger=threshold")
				require.Contains(t, line, "connections_taken=1")
			}
		}
	}, guardedBy("all"), configured(func(c *finalize.Config) {
		c.IdleWarning, c.Logger = 20*time.Millisecond, slog.New(slog.NewTextHandler(log, nil))
	}))
}
