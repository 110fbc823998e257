// Package sqlc_test is a recipe: sqlc's queries and endstate in one transaction. It needs no code of its own: both of sqlc's
// DBTX interfaces take the transaction that a callback gets, and yours is the one that DoTx and Put take.
package sqlc_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/recipes/internal/batchtest"
	"github.com/endstate-go/endstate/recipes/sqlc/postgres"
	"github.com/endstate-go/endstate/recipes/sqlc/sqlite"
)

//go:generate go run github.com/sqlc-dev/sqlc/cmd/sqlc@v1.31.1 generate

func TestOnDatabaseSQL(t *testing.T) {
	t.Parallel()
	batchtest.Each(t, func(t *testing.T, db *batchtest.DB) {
		if !db.SQLite {
			return // below, on pgx
		}
		fin, err := finalize.NewSQL(db.DB, batchtest.Config())
		require.NoError(t, err)
		queries := sqlite.New(db.DB)
		note := func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
			q := queries.WithTx(tx)
			if _, err := q.Note(ctx, "b1"); err != nil {
				return finalize.Outcome{}, err // sql.ErrNoRows of a soft delete, which the query leaves out and the guard doesn't
			}
			_, err := q.SetNote(ctx, sqlite.SetNoteParams{Note: "done", ID: "b1"})
			return batchtest.Completed(), err
		}
		db.TryTx(func(answer error) error {
			tx, err := db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			_, err = queries.WithTx(tx).Save(t.Context(), sqlite.SaveParams{ID: "b1", Status: "PENDING", Note: "saved", Version: 1})
			require.NoError(t, err)
			_, err = outbox.Put(t.Context(), db.Tx(tx), batchtest.Event())
			require.NoError(t, err)
			r, err := fin.DoTx(t.Context(), tx, batchtest.B1, "threshold", note)
			require.NoError(t, err)
			require.True(t, r.Won, "if it commits")
			if answer != nil {
				require.NoError(t, tx.Rollback())
				return answer
			}
			return tx.Commit()
		})

		saved, err := queries.Save(t.Context(), sqlite.SaveParams{ID: "b1", Status: "PENDING", Note: "stale", Version: 1})
		require.NoError(t, err)
		require.Zero(t, saved, "the callback's query raised the version")
		db.Protect()
		_, err = queries.Save(t.Context(), sqlite.SaveParams{ID: "b1", Status: "PENDING", Note: "stale", Version: 3})
		require.ErrorContains(t, err, guard.TerminalStateSQLState)
	})
}

func TestOnPgx(t *testing.T) {
	t.Parallel()
	batchtest.Each(t, func(t *testing.T, db *batchtest.DB) {
		if db.SQLite {
			return
		}
		pool := dbtest.PoolOn(t, db.URL)
		fin, err := finalize.New(pool, batchtest.Config())
		require.NoError(t, err)
		queries := postgres.New(pool)
		r, err := fin.Do(t.Context(), batchtest.B1, "threshold", func(ctx context.Context, tx pgx.Tx) (finalize.Outcome, error) {
			_, err := queries.WithTx(tx).SetNote(ctx, postgres.SetNoteParams{Note: "done", ID: "b1"})
			return batchtest.Completed(), err
		})
		require.NoError(t, err)
		require.True(t, r.Won)
		db.RequireComplete("done")
		saved, err := queries.Save(t.Context(), postgres.SaveParams{ID: "b1", Status: "PENDING", Note: "stale", Version: 1})
		require.NoError(t, err)
		require.Zero(t, saved)
		db.Protect()
		_, err = queries.Save(t.Context(), postgres.SaveParams{ID: "b1", Status: "PENDING", Note: "stale", Version: 2})
		require.ErrorContains(t, err, guard.TerminalStateSQLState)
	})
}
