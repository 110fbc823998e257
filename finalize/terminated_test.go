package finalize_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// F5: the backend is terminated under the callback. Nothing of that transaction is there, and no later one wins twice.
func TestBackendTerminatedInTheCallback(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		kill := func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			require.NoError(t, write(ctx, tx, "b1"))
			var pid int
			require.NoError(t, tx.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid))
			w.exec("SELECT pg_terminate_backend($1)", pid)
			w.eventually("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)
			return completed(), nil
		}
		killed := 0
		r, err := w.do(t.Context(), key, "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			if killed++; killed == 1 {
				return kill(ctx, tx)
			}
			return complete("b1")(ctx, tx)
		})
		w.requireNothingHeld()
		require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
		if err == nil { // run again, since it is known not to have committed
			require.True(t, r.Won)
			require.Equal(t, 2, killed)
			require.Equal(t, 1, w.writes("b1"))
		} else {
			require.Zero(t, r)
			w.requireOpen("b1")
			r, err = w.do(t.Context(), key, "sweep", complete("b1"))
			require.NoError(t, err)
			require.True(t, r.Won)
		}
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")

		callers, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		_, err = callers.doTx(t.Context(), w.open("b2"), "threshold", kill)
		require.Error(t, err)
		require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
		require.Error(t, callers.Commit(t.Context()))
		w.requireOpen("b2")
	}, on("pgx", "sql"), conns(1)) // which asking what became of it must do with
}

// F5: idle_in_transaction_session_timeout strikes a callback that takes too long over something else.
func TestIdleInTransactionTimeout(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		_, err := w.do(t.Context(), key, "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			require.NoError(t, write(ctx, tx, "b1"))
			var pid int
			require.NoError(t, tx.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid))
			_, err := tx.Exec(ctx, "SET LOCAL idle_in_transaction_session_timeout = '10ms'")
			require.NoError(t, err)
			w.eventually("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)
			return completed(), nil
		})
		require.Error(t, err)
		require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
		w.requireNothingHeld()
		w.requireOpen("b1")
		r, err := w.do(t.Context(), key, "sweep", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
	}, on("pgx", "sql"), configured(func(c *finalize.Config) { c.MaxAttempts = 1 }))
}

// F5: statement_timeout and lock_timeout end a wait with the server's own error.
func TestServersTimeoutsWhileWaiting(t *testing.T) {
	t.Parallel()
	for setting, code := range map[string]string{"statement_timeout": "57014", "lock_timeout": "55P03"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				impatient := connect(t, w.database, w.guard, w.dsn, w.schema, param(setting, "100ms"))
				key := w.open("b1")
				w.held("b1", func() {
					_, err := impatient.do(t.Context(), key, "waiter", never(t))
					require.Equal(t, code, sqlState(err), "%v", err)
					_, err = impatient.settle(t.Context(), key, "waiter", completed())
					require.Equal(t, code, sqlState(err), "%v", err)
					callers, err := impatient.begin(t.Context(), "")
					require.NoError(t, err)
					require.NoError(t, write(t.Context(), callers, "caller"))
					_, err = callers.doTx(t.Context(), key, "waiter", never(t))
					require.Equal(t, code, sqlState(err), "%v", err)
					err = callers.Commit(t.Context())
					require.True(t, err == nil || !dbtest.Recovers(), "the caller's transaction stays usable: %v", err)
					require.Equal(t, err == nil, w.writes("caller") == 1)
				})
				impatient.requireNothingHeld()
				w.requireOpen("b1")
			}, on("pgx", "sql"))
		})
	}
}
