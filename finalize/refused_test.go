package finalize_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// F30: a SQL error that the callback swallowed is no win where it aborted the transaction.
func TestASwallowedErrorIsNoWin(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		swallow := func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			require.NoError(t, write(ctx, tx, "b1"))
			_, err := tx.Exec(ctx, "INSERT INTO nowhere VALUES (1)")
			require.Error(t, err)
			return completed(), nil
		}
		r, err := w.do(t.Context(), key, "threshold", swallow)
		require.ErrorIs(t, err, finalize.ErrTxAborted)
		require.Zero(t, r)
		w.requireOpen("b1")

		tx, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		require.NoError(t, write(t.Context(), tx, "caller"))
		_, err = tx.doTx(t.Context(), key, "threshold", swallow)
		require.ErrorIs(t, err, finalize.ErrTxAborted)
		err = tx.Commit(t.Context())
		require.Equal(t, dbtest.Recovers(), err == nil, "the caller's transaction was rolled back to where it was: %v", err)
		require.Equal(t, err == nil, w.writes("caller") == 1)
		w.requireOpen("b1")

		r, err = w.do(t.Context(), key, "sweep", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
	}, on("pgx", "sql"))
}

// F30: SQLite undoes just the failed statement, so that the transaction is whole. But some errors make it roll back everything.
func TestASwallowedErrorOnSQLite(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		swallow := func(id, statement string) work {
			return func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
				require.NoError(t, write(ctx, tx, id))
				_, err := tx.Exec(ctx, statement)
				require.Error(t, err)
				return completed(), nil
			}
		}
		w.open("b1", "b2")
		_, err := w.do(t.Context(), guard.Text("b1"), "threshold", swallow("b1", "INSERT OR ROLLBACK INTO batches (id) VALUES ('b2')"))
		require.ErrorIs(t, err, finalize.ErrTxEnded)
		w.requireOpen("b1")

		r, err := w.do(t.Context(), guard.Text("b2"), "threshold", swallow("b2", "INSERT INTO batches (id) VALUES ('b1')"))
		require.NoError(t, err)
		require.True(t, r.Won)
		w.requireFinal("b2", "COMPLETE_STABLE", "batch.completed")
		require.Equal(t, 1, w.writes("b2"))
	}, on("sqlite"))
}

// F30: what fails only at COMMIT is an error like any other, and no event conflict, whatever constraint it is.
func TestADeferredConstraintFailsAtCommit(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		id := "b1"
		violate := "INSERT INTO essays (batch) VALUES ('nobody')"
		if w.sqlite() {
			w.exec("CREATE TABLE essays (batch text REFERENCES batches (id) DEFERRABLE INITIALLY DEFERRED)")
			_, err := w.sqlDB.ExecContext(t.Context(), "PRAGMA foreign_keys = on")
			require.NoError(t, err)
		} else {
			w.exec("CREATE TABLE essays (batch text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
			w.exec("INSERT INTO essays VALUES ('nobody')")
		}
		key := w.open(id)
		for range 2 {
			r, err := w.do(t.Context(), key, "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
				require.NoError(t, write(ctx, tx, id))
				_, err := tx.Exec(ctx, violate)
				return completed(), err
			})
			require.Error(t, err)
			require.NotErrorIs(t, err, finalize.ErrEventConflict)
			require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
			if !w.sqlite() {
				require.Equal(t, "23505", sqlState(err))
			}
			require.Zero(t, r)
			w.requireOpen(id)
			w.requireNothingHeld()
		}
		require.Empty(t, w.trace.resolving)
		r, err := w.do(t.Context(), key, "sweep", complete(id))
		require.NoError(t, err)
		require.True(t, r.Won)
	}, conns(1))
}

// A callback that takes the settle's work upon itself: the settle moves no row, so nothing may be committed.
func TestACallbackThatSettlesByItself(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for id, statement := range map[string]string{
			"set":     "UPDATE batches SET status = 'COMPLETE_BY_HAND' WHERE id = 'set'",
			"deleted": "DELETE FROM batches WHERE id = 'deleted'",
		} {
			key := w.open(id)
			callback := func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
				require.NoError(t, write(ctx, tx, id))
				_, err := tx.Exec(ctx, statement)
				return completed(), err
			}
			r, err := w.do(t.Context(), key, "threshold", callback)
			require.Error(t, err)
			require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
			require.Zero(t, r)
			w.requireOpen(id)

			tx, err := w.begin(t.Context(), "")
			require.NoError(t, err)
			r, err = tx.doTx(t.Context(), key, "threshold", callback)
			require.Error(t, err)
			require.Zero(t, r)
			require.NoError(t, tx.Commit(t.Context()), "the caller's transaction stays usable")
			w.requireOpen(id)
			require.Equal(t, 1, w.count("SELECT count(*) FROM batches WHERE id = $1 AND status = 'PENDING'", id))

			r, err = w.do(t.Context(), key, "sweep", complete(id))
			require.NoError(t, err)
			require.True(t, r.Won)
		}
	}, guardedBy("status", "all", "own"), configured(func(c *finalize.Config) { c.MaxAttempts = 2 }))
}

// A callback may move the batch on among its open states.
func TestACallbackMaySetAnOpenState(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		r, err := w.do(t.Context(), w.open("b1"), "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			_, err := tx.Exec(ctx, "UPDATE batches SET status = 'PERFORMING_COMPARISONS' WHERE id = 'b1'")
			return completed(), err
		})
		require.NoError(t, err)
		require.True(t, r.Won)
		require.Equal(t, "COMPLETE_STABLE", w.state("b1"))
	})
}

// Rows that the callback forgot to close keep its connection busy. That is an error at once, no lost COMMIT.
func TestACallbackThatLeavesRowsOpen(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		var left []pgx.Rows
		t.Cleanup(func() {
			for _, rows := range left {
				rows.Close()
			}
		})
		leave := func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			require.NoError(t, write(ctx, tx, "b1"))
			rows, err := tx.Query(ctx, "SELECT generate_series(1, 100000)")
			require.NoError(t, err)
			require.True(t, rows.Next())
			left = append(left, rows)
			return completed(), nil
		}
		_, err := w.do(t.Context(), key, "threshold", leave)
		require.ErrorContains(t, err, "busy")
		require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
		w.requireNothingHeld()
		w.requireOpen("b1")
		require.Empty(t, w.trace.resolving)

		// What the callback wrote can't be undone while its rows are open: then the caller can't commit it either.
		callers, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		_, err = callers.doTx(t.Context(), key, "threshold", leave)
		require.Error(t, err)
		require.Error(t, callers.Commit(t.Context()))
		w.requireOpen("b1")

		r, err := w.do(t.Context(), key, "sweep", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
	}, on("pgx", "sql"))
}

// A caller whose rows are open is told so, by drivers that would send the next statement too. Once they are closed, it goes on.
func TestDoTxWhileRowsAreOpen(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		_, err := w.do(t.Context(), key, "winner", complete("b1"))
		require.NoError(t, err)
		callers, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		rows, err := callers.Query(t.Context(), "SELECT generate_series(1, 100000)")
		require.NoError(t, err)
		require.True(t, rows.Next())
		_, err = callers.doTx(t.Context(), key, "threshold", never(t))
		rows.Close()
		if !errors.Is(err, driver.ErrBadConn) { // which is how pgx's driver for database/sql puts it
			require.ErrorContains(t, err, "busy")
		}
		r, err := callers.doTx(t.Context(), key, "threshold", never(t))
		require.NoError(t, err)
		require.False(t, r.Won)
		require.NoError(t, callers.Commit(t.Context()))
	}, on("pgx", "sql"))
}

// F23: what the driver can't encode is found out before anything is sent, and is no lost COMMIT either.
func TestAValueThatCannotBeSent(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		_, err := w.do(t.Context(), key, "threshold", complete("b1"))
		require.Error(t, err)
		require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
		require.Empty(t, w.trace.resolving)
		_, err = w.settle(t.Context(), key, "threshold", completed())
		require.Error(t, err)
		w.requireOpen("b1")
	}, guardedBy("status"), configured(func(c *finalize.Config) {
		s := statusGuard()
		s.Set = map[string]any{"note": make(chan int)}
		c.Guard, c.ResolveTimeout = s, 200*time.Millisecond
	}))
}

// A trigger of the service's own may refuse the state or an event.
func TestTheDatabaseRefusesASettle(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		for _, table := range []string{"batches", "endstate_outbox"} {
			event := map[string]string{"batches": "UPDATE", "endstate_outbox": "INSERT"}[table]
			if w.sqlite() {
				w.exec("CREATE TRIGGER refuse BEFORE " + event + " ON " + table + " BEGIN SELECT RAISE(ABORT, 'refused'); END")
			} else {
				w.exec("CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'P0042'; END $$")
				w.exec("CREATE TRIGGER refuse BEFORE " + event + " ON " + table + " FOR EACH ROW EXECUTE FUNCTION refuse()")
			}
			_, err := w.do(t.Context(), key, "threshold", complete("b1"))
			require.ErrorContains(t, err, "refused")
			if !w.sqlite() {
				require.Equal(t, "P0042", sqlState(err))
			}
			w.requireOpen("b1")
			_, err = w.settle(t.Context(), key, "threshold", completed())
			require.ErrorContains(t, err, "refused")
			w.requireOpen("b1")
			require.Zero(t, w.trace.retries())
			if w.sqlite() {
				w.exec("DROP TRIGGER refuse")
			} else {
				w.exec("DROP TRIGGER refuse ON " + table)
			}
		}
		r, err := w.do(t.Context(), key, "sweep", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
	}, guardedBy("status", "all", "own"))
}
