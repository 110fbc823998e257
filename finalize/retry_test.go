package finalize_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// F6: where the transaction is ours, it runs again.
func TestDoRetriesWhatTheDatabaseBreaksOff(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for _, code := range []string{"40001", "40P01"} {
			id := "b" + code
			runs := 0
			r, err := w.do(t.Context(), w.open(id), "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
				if err := write(ctx, tx, id); err != nil {
					return finalize.Outcome{}, err
				}
				if runs++; runs < 3 {
					_, err := tx.Exec(ctx, "DO $$ BEGIN RAISE EXCEPTION 'broken off' USING ERRCODE = '"+code+"'; END $$")
					return finalize.Outcome{}, fmt.Errorf("rank: %w", err)
				}
				return completed(), nil
			})
			require.NoError(t, err)
			require.True(t, r.Won)
			require.Equal(t, 3, runs)
			require.Equal(t, 1, w.writes(id), "what the broken-off transactions wrote is gone")
			w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
		}
		require.Equal(t, 4, w.trace.retries())
		require.Equal(t, []int{1, 2}, []int{w.trace.retry[0].Attempt, w.trace.retry[1].Attempt})
		require.Equal(t, 3, w.trace.won[0].Attempt)
	}, on("pgx", "sql"))
}

// F6: but not forever.
func TestDoGivesUpAfterMaxAttempts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		runs := 0
		_, err := w.do(t.Context(), w.open("b1"), "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			runs++
			_, err := tx.Exec(ctx, "DO $$ BEGIN RAISE EXCEPTION 'broken off' USING ERRCODE = '40001'; END $$")
			return finalize.Outcome{}, errors.Join(err, write(ctx, tx, "b1"))
		})
		require.ErrorContains(t, err, "gave up after 3 attempts")
		require.Equal(t, "40001", sqlState(err))
		require.Equal(t, 3, runs)
		require.Equal(t, 2, w.trace.retries())
		require.Equal(t, [4]int{0, 0, 0, 1}, w.trace.counts())
		w.requireOpen("b1")
	}, on("pgx", "sql"), configured(func(c *finalize.Config) { c.MaxAttempts = 3 }))
}

// On SQLite a busy database is what breaks a transaction off.
func TestDoRetriesABusySQLite(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1", "b2")
		for _, call := range []func() (finalize.Receipt, error){
			func() (finalize.Receipt, error) { return w.do(t.Context(), key, "threshold", complete("b1")) },
			func() (finalize.Receipt, error) {
				return w.settle(t.Context(), guard.Text("b2"), "threshold", completed())
			},
		} {
			_, err := w.sqlDB.ExecContext(t.Context(), "PRAGMA busy_timeout = 0")
			require.NoError(t, err)
			conn, err := w.db.Conn(t.Context())
			require.NoError(t, err)
			_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
			require.NoError(t, err)
			before := w.trace.retries()
			w.trace.onRetry = func() {
				if w.trace.retries() == before+2 {
					_, err := conn.ExecContext(t.Context(), "ROLLBACK")
					require.NoError(t, err)
				}
			}
			r, err := call()
			require.NoError(t, err)
			require.True(t, r.Won)
			require.Equal(t, before+2, w.trace.retries())
			require.NoError(t, conn.Close())
		}
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
		w.requireFinal("b2", "COMPLETE_STABLE", "batch.completed")
	}, on("sqlite"), conns(1))
}
