package ent_test

import (
	"context"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
	recipe "github.com/endstate-go/endstate/recipes/ent"
	"github.com/endstate-go/endstate/recipes/ent/gen"
	"github.com/endstate-go/endstate/recipes/ent/gen/batch"
	"github.com/endstate-go/endstate/recipes/internal/batchtest"
)

type service struct {
	*batchtest.DB
	ent *gen.Client
	fin *finalize.Finalizer[*gen.Tx]
}

func each(t *testing.T, run func(t *testing.T, s service)) {
	batchtest.Each(t, func(t *testing.T, db *batchtest.DB) {
		name := dialect.Postgres
		if db.SQLite {
			name = dialect.SQLite
		}
		fin, err := finalize.NewORM(db.DB, recipe.ORM(name), batchtest.Config())
		require.NoError(t, err)
		run(t, service{db, gen.NewClient(gen.Driver(entsql.OpenDB(name, db.DB))), fin})
	})
}

// note is a callback that works with ent.
func note(ctx context.Context, tx *gen.Tx) (finalize.Outcome, error) {
	b, err := tx.Batch.Get(ctx, "b1")
	if err != nil {
		return finalize.Outcome{}, err
	}
	return batchtest.Completed(), b.Update().SetNote("done").AddVersion(1).Exec(ctx)
}

func TestDoWithEnt(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		batchtest.TryDo(s.DB, s.fin, func(ctx context.Context, tx *gen.Tx) (finalize.Outcome, error) {
			out, err := note(ctx, tx)
			require.Error(t, tx.Commit(), "Do commits")
			return out, err
		})
	})
}

func TestDoTxAndPutInEntsTransaction(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		s.TryTx(func(answer error) error {
			tx, err := s.ent.Tx(t.Context())
			require.NoError(t, err)
			require.NoError(t, tx.Batch.UpdateOneID("b1").SetNote("saved").Exec(t.Context()))
			_, err = outbox.Put(t.Context(), s.Tx(tx), batchtest.Event())
			require.NoError(t, err)
			r, err := s.fin.DoTx(t.Context(), tx, batchtest.B1, "threshold", note)
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

// See the recipe for gorm, which says more to each.
func TestPitfalls(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s service) {
		s.Protect()
		hooked := 0
		s.ent.Use(func(next gen.Mutator) gen.Mutator {
			return gen.MutateFunc(func(ctx context.Context, m gen.Mutation) (gen.Value, error) { hooked++; return next.Mutate(ctx, m) })
		})
		stale, err := s.ent.Batch.Get(t.Context(), "b1")
		require.NoError(t, err)
		_, err = s.fin.Do(t.Context(), batchtest.B1, "threshold", note)
		require.NoError(t, err)
		require.Zero(t, hooked, "the handle in a callback has none of the client's hooks")

		err = stale.Update().SetStatus(stale.Status).SetNote(stale.Note).Exec(t.Context())
		require.ErrorContains(t, err, guard.TerminalStateSQLState, "a stale struct")
		saved, err := s.ent.Batch.Update().Where(batch.ID("b1"), batch.Version(stale.Version)).SetStatus(stale.Status).Save(t.Context())
		require.NoError(t, err)
		require.Zero(t, saved, "an optimistic version, which the callback raised")
		s.RequireComplete("done")
	})
}
