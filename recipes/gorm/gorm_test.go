package gorm_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"
	"gorm.io/driver/postgres"
	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/outbox"
	recipe "github.com/endstate-go/endstate/recipes/gorm"
	"github.com/endstate-go/endstate/recipes/internal/batchtest"
)

// Batch is the service's model.
type Batch struct {
	ID        string `gorm:"primaryKey"`
	Status    string
	Note      string
	Version   int
	DeletedAt gorm.DeletedAt
	saved     func() // for a test
}

// AfterSave is a hook.
func (b *Batch) AfterSave(*gorm.DB) error {
	if b.saved != nil {
		b.saved()
	}
	return nil
}

type service struct {
	*batchtest.DB
	gorm *gorm.DB
	fin  *finalize.Finalizer[*gorm.DB]
}

// each runs a test on each database, with and without prepared statements.
func each(t *testing.T, run func(t *testing.T, s service)) {
	for name, prepare := range map[string]bool{"plain": false, "PrepareStmt": true} {
		t.Run(name, func(t *testing.T) {
			batchtest.Each(t, func(t *testing.T, db *batchtest.DB) {
				dialector := postgres.New(postgres.Config{Conn: db.DB})
				if db.SQLite {
					dialector = sqlite.Dialector{Conn: db.DB}
				}
				g, err := gorm.Open(dialector, &gorm.Config{PrepareStmt: prepare, Logger: logger.Discard})
				require.NoError(t, err)
				fin, err := finalize.NewORM(db.DB, recipe.ORM(g), batchtest.Config())
				require.NoError(t, err)
				run(t, service{db, g, fin})
			})
		})
	}
}

func (s service) load(t *testing.T) *Batch {
	t.Helper()
	var b Batch
	require.NoError(t, s.gorm.WithContext(t.Context()).First(&b, "id = ?", "b1").Error)
	return &b
}

// note is a callback that works with gorm.
func note(ctx context.Context, tx *gorm.DB) (finalize.Outcome, error) {
	var b Batch
	if err := tx.WithContext(ctx).First(&b, "id = ?", "b1").Error; err != nil {
		return finalize.Outcome{}, err
	}
	b.Note = "done"
	// Not b's status, which is the guard's to set.
	return batchtest.Completed(), tx.WithContext(ctx).Model(&b).Select("note").Updates(&b).Error
}

func TestDoWithGorm(t *testing.T) {
	t.Parallel()
	each(t, func(_ *testing.T, s service) { batchtest.TryDo(s.DB, s.fin, note) })
}

func TestDoTxInGormsTransaction(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		finish := func(answer error) error {
			return s.gorm.WithContext(t.Context()).Transaction(func(tx *gorm.DB) error {
				b := s.loadIn(t, tx)
				b.Note = "done"
				if err := tx.Save(b).Error; err != nil {
					return err
				}
				r, err := s.fin.DoTx(t.Context(), tx, batchtest.B1, "threshold", note)
				require.NoError(t, err)
				require.True(t, r.Won, "if it commits")
				return answer
			})
		}
		require.ErrorIs(t, finish(batchtest.ErrNo), batchtest.ErrNo)
		s.RequireOpen()
		require.NoError(t, finish(nil))
		s.RequireComplete("done")

		_, err := s.fin.DoTx(t.Context(), s.gorm, batchtest.B1, "threshold", note)
		require.ErrorContains(t, err, "in no transaction")
	})
}

func (s service) loadIn(t *testing.T, tx *gorm.DB) *Batch {
	t.Helper()
	var b Batch
	require.NoError(t, tx.First(&b, "id = ?", "b1").Error)
	return &b
}

func TestPutInGormsTransaction(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		put := func(answer error) error {
			return s.gorm.WithContext(t.Context()).Transaction(func(tx *gorm.DB) error {
				if err := tx.Model(&Batch{ID: "b1"}).Update("note", "noted").Error; err != nil {
					return err
				}
				of, err := recipe.Tx(tx)
				require.NoError(t, err)
				// With PrepareStmt, gorm's transaction isn't a *sql.Tx: code that asserts one fails in that setting alone.
				_, plain := of.(*sql.Tx)
				require.Equal(t, !s.gorm.PrepareStmt, plain)
				_, err = outbox.Put(t.Context(), s.Tx(of), batchtest.Event())
				require.NoError(t, err)
				return answer
			})
		}
		require.ErrorIs(t, put(batchtest.ErrNo), batchtest.ErrNo)
		s.RequireOpen()
		require.NoError(t, put(nil))
		s.RequireBatch("PENDING", "noted")
		s.RequireEvents("batch.noted")
	})
}
