package sqlx_test

import (
	"context"
	"testing"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/recipes/internal/batchtest"
	recipe "github.com/endstate-go/endstate/recipes/sqlx"
)

// Batch is the service's model.
type Batch struct {
	ID      string
	Status  string
	Note    string
	Version int
}

type service struct {
	*batchtest.DB
	sqlx *sqlx.DB
	fin  *finalize.Finalizer[*sqlx.Tx]
}

func each(t *testing.T, run func(t *testing.T, s service)) {
	batchtest.Each(t, func(t *testing.T, db *batchtest.DB) {
		driver := "pgx"
		if db.SQLite {
			driver = "sqlite"
		}
		x := sqlx.NewDb(db.DB, driver)
		fin, err := finalize.NewORM(db.DB, recipe.ORM(x), batchtest.Config())
		require.NoError(t, err)
		run(t, service{db, x, fin})
	})
}

const (
	byID = `SELECT id, status, note, version FROM batches WHERE id = ?`
	save = `UPDATE batches SET status = :status, note = :note WHERE id = :id`
)

// note is a callback that works with sqlx.
func (s service) note(ctx context.Context, tx *sqlx.Tx) (finalize.Outcome, error) {
	var b Batch
	if err := tx.GetContext(ctx, &b, s.sqlx.Rebind(byID), "b1"); err != nil {
		return finalize.Outcome{}, err
	}
	b.Note = "done"
	query, args, err := s.sqlx.BindNamed(`UPDATE batches SET note = :note, version = version + 1 WHERE id = :id`, b)
	if err == nil {
		_, err = tx.ExecContext(ctx, query, args...)
	}
	return batchtest.Completed(), err
}

func TestDoWithSqlx(t *testing.T) {
	t.Parallel()
	each(t, func(_ *testing.T, s service) { batchtest.TryDo(s.DB, s.fin, s.note) })
}

func TestDoTxAndPutInSqlxsTransaction(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		s.TryTx(func(answer error) error {
			tx, err := s.sqlx.BeginTxx(t.Context(), nil)
			require.NoError(t, err)
			_, err = tx.NamedExecContext(t.Context(), save, Batch{ID: "b1", Status: "PENDING", Note: "saved"})
			require.NoError(t, err)
			_, err = outbox.Put(t.Context(), s.Tx(tx), batchtest.Event())
			require.NoError(t, err)
			r, err := s.fin.DoTx(t.Context(), tx, batchtest.B1, "threshold", s.note)
			require.NoError(t, err)
			require.True(t, r.Won, "if it commits")
			if answer != nil {
				require.NoError(t, tx.Rollback())
				return answer
			}
			return tx.Commit()
		})
	})
}

// The handle in a callback can't tell which placeholders its database has: PostgreSQL is handed question marks.
func TestNamedExecInACallback(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		_, err := s.fin.Do(t.Context(), batchtest.B1, "threshold", func(ctx context.Context, tx *sqlx.Tx) (finalize.Outcome, error) {
			_, err := tx.NamedExecContext(ctx, save, Batch{ID: "b1", Status: "PENDING", Note: "done"})
			return batchtest.Completed(), err
		})
		if s.SQLite {
			require.NoError(t, err)
			s.RequireComplete("done")
			return
		}
		require.ErrorContains(t, err, "42601", "a syntax error")
		s.RequireOpen()
	})
}

// See the recipe for gorm, which says more to each.
func TestPitfalls(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		s.Protect()
		var stale Batch
		require.NoError(t, s.sqlx.GetContext(t.Context(), &stale, s.sqlx.Rebind(byID), "b1"))
		_, err := s.fin.Do(t.Context(), batchtest.B1, "threshold", s.note)
		require.NoError(t, err)

		_, err = s.sqlx.NamedExecContext(t.Context(), save, stale)
		require.ErrorContains(t, err, guard.TerminalStateSQLState, "a stale struct")

		result, err := s.sqlx.NamedExecContext(t.Context(), save+` AND version = :version`, stale)
		require.NoError(t, err)
		rows, err := result.RowsAffected()
		require.NoError(t, err)
		require.Zero(t, rows, "an optimistic version, which the callback raised")
		s.RequireComplete("done")
	})
}
