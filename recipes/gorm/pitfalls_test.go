package gorm_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"gorm.io/gorm"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/recipes/internal/batchtest"
)

// A struct that was read before the win, and is saved after it, puts all of its old columns back. The database refuses that,
// if the table is protected.
func TestAStaleStruct(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		stale := s.load(t)
		_, err := s.fin.Do(t.Context(), batchtest.B1, "threshold", note)
		require.NoError(t, err)

		require.NoError(t, s.gorm.Save(stale).Error)
		s.RequireBatch("PENDING", "") // the completion is undone, and its event is out
		s.Exec(`UPDATE batches SET status = 'COMPLETE', note = 'done'`)

		s.Protect()
		require.ErrorContains(t, s.gorm.Save(stale).Error, guard.TerminalStateSQLState)
		s.RequireComplete("done")
		require.NoError(t, s.gorm.Model(stale).Update("note", "later").Error, "other columns may change")
		s.RequireComplete("later")
	})
}

// The guard's own write knows nothing of a column that counts versions, so that a save by the version read before the win
// goes through. A callback that raises the version makes that save find no row.
func TestAnOptimisticVersion(t *testing.T) {
	t.Parallel()
	save := func(g *gorm.DB, b *Batch) int64 {
		return g.Model(&Batch{}).Where("id = ? AND version = ?", b.ID, b.Version).
			Updates(map[string]any{"status": b.Status, "note": "stale", "version": b.Version + 1}).RowsAffected
	}
	each(t, func(t *testing.T, s service) {
		stale := s.load(t)
		_, err := s.fin.Do(t.Context(), batchtest.B1, "threshold", func(ctx context.Context, tx *gorm.DB) (finalize.Outcome, error) {
			return batchtest.Completed(), tx.Model(&Batch{ID: "b1"}).Update("version", gorm.Expr("version + 1")).Error
		})
		require.NoError(t, err)
		require.Zero(t, save(s.gorm, stale))
		s.RequireComplete("")

		s.Exec(`INSERT INTO batches (id, status) VALUES ('b2', 'PENDING')`)
		stale = &Batch{ID: "b2", Status: "PENDING", Version: 1}
		_, err = s.fin.Settle(t.Context(), guard.Text("b2"), "threshold", batchtest.Completed())
		require.NoError(t, err)
		require.EqualValues(t, 1, save(s.gorm, stale), "Settle has no callback: use Do, or Status.Protect")
	})
}

// A row that is deleted softly is no row to gorm and one like any other to the guard. The callback, which asks gorm, decides.
func TestASoftDelete(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		require.NoError(t, s.gorm.Delete(&Batch{ID: "b1"}).Error)
		_, err := s.fin.Do(t.Context(), batchtest.B1, "threshold", note)
		require.ErrorIs(t, err, gorm.ErrRecordNotFound)
		s.RequireOpen()

		r, err := s.fin.Settle(t.Context(), batchtest.B1, "threshold", batchtest.Completed())
		require.NoError(t, err)
		require.True(t, r.Won, "Settle asks nobody")
	})
}

// Hooks run for what gorm writes, and so not for the terminal state, which the guard writes. What has to follow from that state
// belongs in the callback or an event.
func TestHooks(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		saved := 0
		_, err := s.fin.Do(t.Context(), batchtest.B1, "threshold", func(ctx context.Context, tx *gorm.DB) (finalize.Outcome, error) {
			b := s.loadIn(t, tx)
			b.saved = func() { saved++ }
			require.NoError(t, tx.Model(b).Update("note", "done").Error)
			return batchtest.Completed(), nil
		})
		require.NoError(t, err)
		require.Equal(t, 1, saved, "for the note")
		s.RequireComplete("done")
	})
}

// A transaction in a transaction is a savepoint. What a DoTx won in one that is rolled back is won no more, and nobody
// remembers it.
func TestNestedTransactions(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		require.NoError(t, s.gorm.WithContext(t.Context()).Transaction(func(outer *gorm.DB) error {
			err := outer.Transaction(func(inner *gorm.DB) error {
				r, err := s.fin.DoTx(t.Context(), inner, batchtest.B1, "threshold", note)
				require.NoError(t, err)
				require.True(t, r.Won, "if both commit")
				return batchtest.ErrNo
			})
			require.ErrorIs(t, err, batchtest.ErrNo)
			return nil
		}))
		s.RequireOpen()

		// And the other way round: a savepoint in the callback.
		r, err := s.fin.Do(t.Context(), batchtest.B1, "threshold", func(ctx context.Context, tx *gorm.DB) (finalize.Outcome, error) {
			require.ErrorIs(t, tx.Transaction(func(inner *gorm.DB) error {
				require.NoError(t, inner.Model(&Batch{ID: "b1"}).Update("note", "undone").Error)
				return batchtest.ErrNo
			}), batchtest.ErrNo)
			return batchtest.Completed(), nil
		})
		require.NoError(t, err)
		require.True(t, r.Won)
		s.RequireComplete("")
	})
}
