// Package bun_test is a recipe: bun and endstate in one transaction. It needs no code of its own: a bun.Tx has a *sql.Tx in its
// field Tx, and bun's queries run in a *sql.Tx that their Conn method is given.
package bun_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"github.com/uptrace/bun/schema"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/recipes/internal/batchtest"
)

// Batch is the service's model.
type Batch struct {
	bun.BaseModel `bun:"table:batches"`

	ID        string `bun:",pk"`
	Status    string
	Note      string
	Version   int
	DeletedAt time.Time `bun:",soft_delete,nullzero"`
	updated   func()    // for a test
}

var _ bun.AfterUpdateHook = (*Batch)(nil)

// AfterUpdate is a hook.
func (*Batch) AfterUpdate(_ context.Context, query *bun.UpdateQuery) error {
	if b, ok := query.GetModel().Value().(*Batch); ok && b != nil && b.updated != nil {
		b.updated()
	}
	return nil
}

type service struct {
	*batchtest.DB
	bun *bun.DB
	fin *finalize.Finalizer[*sql.Tx]
}

func each(t *testing.T, run func(t *testing.T, s service)) {
	batchtest.Each(t, func(t *testing.T, db *batchtest.DB) {
		var dialect schema.Dialect = pgdialect.New()
		if db.SQLite {
			dialect = sqlitedialect.New()
		}
		fin, err := finalize.NewSQL(db.DB, batchtest.Config())
		require.NoError(t, err)
		run(t, service{db, bun.NewDB(db.DB, dialect), fin})
	})
}

// note is a callback that works with bun.
func (s service) note(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
	var b Batch
	if err := s.bun.NewSelect().Conn(tx).Model(&b).Where("id = ?", "b1").Scan(ctx); err != nil {
		return finalize.Outcome{}, err
	}
	b.Note = "done"
	_, err := s.bun.NewUpdate().Conn(tx).Model(&b).Column("note").WherePK().Exec(ctx)
	return batchtest.Completed(), err
}

func TestDoWithBun(t *testing.T) {
	t.Parallel()
	each(t, func(_ *testing.T, s service) { batchtest.TryDo(s.DB, s.fin, s.note) })
}

func TestDoTxAndPutInBunsTransaction(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		s.TryTx(func(answer error) error {
			return s.bun.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
				if _, err := tx.NewUpdate().Model(&Batch{ID: "b1", Note: "saved"}).Column("note").WherePK().Exec(ctx); err != nil {
					return err
				}
				if _, err := outbox.Put(ctx, s.Tx(tx.Tx), batchtest.Event()); err != nil {
					return err
				}
				r, err := s.fin.DoTx(ctx, tx.Tx, batchtest.B1, "threshold", s.note)
				require.NoError(t, err)
				require.True(t, r.Won, "if it commits")
				return answer
			})
		})
	})
}

// A bun.Tx compiles where its Tx belongs. It puts arguments into a statement's text by rules of its own, and so drops those for
// the placeholders of PostgreSQL.
func TestABunTxFormatsStatements(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		if s.SQLite {
			return // whose insert has bun's placeholders
		}
		err := s.bun.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			_, err := outbox.Put(ctx, s.Tx(tx), batchtest.Event())
			return err
		})
		require.ErrorContains(t, err, "SQLSTATE 42P02", "there is no such parameter")
		s.RequireOpen()
	})
}

// See the recipe for gorm, which says more to each.
func TestPitfalls(t *testing.T) {
	t.Parallel()
	t.Run("a stale struct", func(t *testing.T) {
		t.Parallel()
		each(t, func(t *testing.T, s service) {
			s.Protect()
			var stale Batch
			require.NoError(t, s.bun.NewSelect().Model(&stale).Where("id = ?", "b1").Scan(t.Context()))
			_, err := s.fin.Do(t.Context(), batchtest.B1, "threshold", s.note)
			require.NoError(t, err)
			_, err = s.bun.NewUpdate().Model(&stale).WherePK().Exec(t.Context())
			require.ErrorContains(t, err, guard.TerminalStateSQLState)
			s.RequireComplete("done")
		})
	})
	t.Run("an optimistic version", func(t *testing.T) {
		t.Parallel()
		each(t, func(t *testing.T, s service) {
			_, err := s.fin.Do(t.Context(), batchtest.B1, "threshold", func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
				_, err := s.bun.NewUpdate().Conn(tx).Model((*Batch)(nil)).Set("version = version + 1").Where("id = ?", "b1").Exec(ctx)
				return batchtest.Completed(), err
			})
			require.NoError(t, err)
			stale, err := s.bun.NewUpdate().Model(&Batch{ID: "b1", Status: "PENDING", Version: 2}).WherePK().Where("version = ?", 1).Exec(t.Context())
			require.NoError(t, err)
			rows, err := stale.RowsAffected()
			require.NoError(t, err)
			require.Zero(t, rows)
			s.RequireComplete("")
		})
	})
	t.Run("a soft delete", func(t *testing.T) {
		t.Parallel()
		each(t, func(t *testing.T, s service) {
			_, err := s.bun.NewDelete().Model(&Batch{ID: "b1"}).WherePK().Exec(t.Context())
			require.NoError(t, err)
			_, err = s.fin.Do(t.Context(), batchtest.B1, "threshold", s.note)
			require.ErrorIs(t, err, sql.ErrNoRows)
			s.RequireOpen()
		})
	})
	t.Run("hooks", func(t *testing.T) {
		t.Parallel()
		each(t, func(t *testing.T, s service) {
			updated := 0
			_, err := s.fin.Do(t.Context(), batchtest.B1, "threshold", func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
				b := &Batch{ID: "b1", Note: "done", updated: func() { updated++ }}
				_, err := s.bun.NewUpdate().Conn(tx).Model(b).Column("note").WherePK().Exec(ctx)
				return batchtest.Completed(), err
			})
			require.NoError(t, err)
			require.Equal(t, 1, updated, "for the note")
			s.RequireComplete("done")
		})
	})
	t.Run("nested transactions", func(t *testing.T) {
		t.Parallel()
		each(t, func(t *testing.T, s service) {
			require.NoError(t, s.bun.RunInTx(t.Context(), nil, func(ctx context.Context, outer bun.Tx) error {
				err := outer.RunInTx(ctx, nil, func(ctx context.Context, inner bun.Tx) error {
					r, err := s.fin.DoTx(ctx, inner.Tx, batchtest.B1, "threshold", s.note)
					return errors.Join(err, map[bool]error{true: batchtest.ErrNo}[r.Won])
				})
				require.ErrorIs(t, err, batchtest.ErrNo)
				return nil
			}))
			s.RequireOpen()
		})
	})
}
