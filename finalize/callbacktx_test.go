package finalize_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// On pgx the callback's transaction can't be ended by the callback, and is otherwise all that a pgx.Tx is.
func TestCallbackTxIsAWholePgxTx(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		use := func(ctx context.Context, gtx endstate.Tx) (finalize.Outcome, error) {
			tx := gtx.(pgx.Tx)
			require.ErrorIs(t, tx.Commit(ctx), finalize.ErrTxOwned)
			require.ErrorIs(t, tx.Rollback(ctx), finalize.ErrTxOwned)

			nested, err := tx.Begin(ctx)
			require.NoError(t, err)
			require.NoError(t, write(ctx, nested, "kept"))
			deeper, err := nested.Begin(ctx)
			require.NoError(t, err)
			require.NoError(t, write(ctx, deeper, "undone"))
			require.NoError(t, deeper.Rollback(ctx))
			require.NoError(t, nested.Commit(ctx))
			require.ErrorIs(t, nested.Commit(ctx), pgx.ErrTxClosed)
			broken, err := tx.Begin(ctx)
			require.NoError(t, err)
			_, err = broken.Exec(ctx, "INSERT INTO nowhere VALUES (1)")
			require.Error(t, err)
			require.NoError(t, broken.Rollback(ctx), "a savepoint contains an error")

			n, err := tx.CopyFrom(ctx, pgx.Identifier{"writes"}, []string{"batch", "note"}, pgx.CopyFromRows([][]any{{"copied", "1"}, {"copied", "2"}}))
			require.NoError(t, err)
			require.EqualValues(t, 2, n)
			batch := &pgx.Batch{}
			batch.Queue("INSERT INTO writes VALUES ('sent', '1')")
			require.NoError(t, tx.SendBatch(ctx, batch).Close())
			_, err = tx.Prepare(ctx, "put", "INSERT INTO writes VALUES ($1, 'x')")
			require.NoError(t, err)
			_, err = tx.Exec(ctx, "put", "prepared")
			require.NoError(t, err)
			require.NoError(t, tx.Conn().Deallocate(ctx, "put"))
			objects := tx.LargeObjects()
			oid, err := objects.Create(ctx, 0)
			require.NoError(t, err)
			require.NoError(t, objects.Unlink(ctx, oid))
			var one int
			require.NoError(t, tx.QueryRow(ctx, "SELECT 1").Scan(&one))
			rows, err := tx.Query(ctx, "SELECT 1")
			require.NoError(t, err)
			rows.Close()
			require.False(t, tx.Conn().IsClosed())
			return completed(), nil
		}
		r, err := w.do(t.Context(), key, "threshold", use)
		require.NoError(t, err)
		require.True(t, r.Won)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")

		tx, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		r, err = tx.doTx(t.Context(), w.open("b2"), "threshold", use)
		require.NoError(t, err)
		require.True(t, r.Won)
		require.NoError(t, tx.Commit(t.Context()))
		w.requireFinal("b2", "COMPLETE_STABLE", "batch.completed")
		for id, n := range map[string]int{"kept": 1, "undone": 0, "copied": 2, "sent": 1, "prepared": 1} {
			require.Equal(t, 2*n, w.writes(id), id)
		}
	}, on("pgx"))
}

// A transaction that outlives its callback must not reach the connection, which serves others by then.
func TestCallbackTxIsClosedAfterTheCallback(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		var kept []pgx.Tx
		keep := func(outcome error) work {
			return func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
				nested, err := tx.(pgx.Tx).Begin(ctx)
				require.NoError(t, err)
				kept = append(kept, tx.(pgx.Tx), nested)
				return completed(), outcome
			}
		}
		_, err := w.do(t.Context(), key, "early", keep(finalize.ErrNotReady))
		require.ErrorIs(t, err, finalize.ErrNotReady)
		_, err = w.do(t.Context(), key, "threshold", keep(nil))
		require.NoError(t, err)
		callers, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		_, err = callers.doTx(t.Context(), w.open("b2"), "threshold", keep(nil))
		require.NoError(t, err)
		require.Len(t, kept, 6)

		ctx := t.Context()
		for _, tx := range kept {
			_, err := tx.Exec(ctx, "INSERT INTO writes VALUES ('late', '')")
			require.ErrorIs(t, err, pgx.ErrTxClosed)
			rows, err := tx.Query(ctx, "SELECT 1")
			require.ErrorIs(t, err, pgx.ErrTxClosed)
			require.False(t, rows.Next())
			require.ErrorIs(t, rows.Err(), pgx.ErrTxClosed)
			rows.Close()
			var n int
			require.ErrorIs(t, tx.QueryRow(ctx, "SELECT 1").Scan(&n), pgx.ErrTxClosed)
			_, err = tx.CopyFrom(ctx, pgx.Identifier{"writes"}, []string{"batch"}, pgx.CopyFromRows([][]any{{"late"}}))
			require.ErrorIs(t, err, pgx.ErrTxClosed)
			batch := &pgx.Batch{}
			batch.Queue("INSERT INTO writes VALUES ('late', '')")
			require.ErrorIs(t, tx.SendBatch(ctx, batch).Close(), pgx.ErrTxClosed)
			_, err = tx.Prepare(ctx, "late", "SELECT 1")
			require.ErrorIs(t, err, pgx.ErrTxClosed)
			_, err = tx.Begin(ctx)
			require.ErrorIs(t, err, pgx.ErrTxClosed)
			require.ErrorIs(t, tx.Commit(ctx), pgx.ErrTxClosed)
			require.ErrorIs(t, tx.Rollback(ctx), pgx.ErrTxClosed)
			objects := tx.LargeObjects()
			_, err = objects.Create(ctx, 0)
			require.ErrorIs(t, err, pgx.ErrTxClosed)
		}
		require.NoError(t, callers.Commit(ctx), "the caller's own is open")
		require.Zero(t, w.writes("late"))
	}, on("pgx"))
}

// What database/sql hands out can be ended by the callback: that is noticed, and is never a win.
func TestATransactionThatTheCallbackEnded(t *testing.T) {
	t.Parallel()
	statement := func(text string) func(context.Context, endstate.Tx) error {
		return func(ctx context.Context, tx endstate.Tx) error { _, err := tx.Exec(ctx, text); return err }
	}
	for name, end := range map[string]func(context.Context, endstate.Tx) error{
		"Commit":   func(ctx context.Context, tx endstate.Tx) error { return tx.Commit(ctx) },
		"Rollback": func(ctx context.Context, tx endstate.Tx) error { return tx.Rollback(ctx) },
		"COMMIT":   statement("COMMIT"),
		"ROLLBACK": statement("ROLLBACK"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				if w.database == "pgx" && (name == "Commit" || name == "Rollback") {
					t.Log("refused on pgx, see TestCallbackTxIsAWholePgxTx")
					return
				}
				callback := func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
					return completed(), end(ctx, tx)
				}
				key := w.open("b1")
				r, err := w.do(t.Context(), key, "threshold", callback)
				require.ErrorIs(t, err, finalize.ErrTxEnded)
				require.Zero(t, r)
				w.requireOpen("b1")
				w.requireNothingHeld()

				tx, err := w.begin(t.Context(), "")
				require.NoError(t, err)
				_, err = tx.doTx(t.Context(), key, "threshold", callback)
				require.ErrorIs(t, err, finalize.ErrTxEnded)
				_ = tx.Rollback(t.Context())
				w.requireOpen("b1")

				r, err = w.do(t.Context(), key, "sweep", complete("b1"))
				require.NoError(t, err)
				require.True(t, r.Won)
			})
		})
	}
}

// The callback gets the very *sql.Tx.
func TestCallbackGetsAnSQLTx(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		f, err := finalize.NewSQL(w.sqlDB, &finalize.Config{Aggregate: aggregate, Guard: guardNamed(w.guard, w.sqlite()), Logger: discard()})
		require.NoError(t, err)
		w.open("b1")
		var kept *sql.Tx
		r, err := f.Do(t.Context(), guard.Text("b1"), "threshold", func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
			kept = tx
			_, err := tx.ExecContext(ctx, "INSERT INTO writes VALUES ('b1', '')")
			return completed(), err
		})
		require.NoError(t, err)
		require.True(t, r.Won)
		_, err = kept.ExecContext(t.Context(), "INSERT INTO writes VALUES ('late', '')")
		require.ErrorIs(t, err, sql.ErrTxDone)
		require.Zero(t, w.writes("late"))

		tx, err := w.sqlDB.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		defer tx.Rollback()
		_, err = f.DoTx(t.Context(), tx, w.open("b2"), "threshold", func(_ context.Context, inner *sql.Tx) (finalize.Outcome, error) {
			require.Same(t, tx, inner)
			return finalize.Outcome{}, errors.Join(finalize.ErrNotReady)
		})
		require.ErrorIs(t, err, finalize.ErrNotReady)
	}, on("sql", "sqlite"))
}
