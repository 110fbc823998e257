package finalize_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// handle is an ORM's handle for a transaction.
type handle struct{ endstate.SQLTx }

var handles = finalize.ORM[*handle]{
	With: func(_ context.Context, tx *sql.Tx) (*handle, error) { return &handle{tx}, nil },
	Of:   func(h *handle) (endstate.SQLTx, error) { return h.SQLTx, nil },
}

func TestAnORMsHandle(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		cfg := &finalize.Config{Aggregate: aggregate, Guard: guardNamed(w.guard, w.sqlite()), Logger: discard()}
		f, err := finalize.NewORM(w.sqlDB, handles, cfg)
		require.NoError(t, err)
		w.open("do", "tx")
		r, err := f.Do(t.Context(), guard.Text("do"), "sweep", func(ctx context.Context, tx *handle) (finalize.Outcome, error) {
			_, err := tx.ExecContext(ctx, "INSERT INTO writes (batch) VALUES ('do')")
			return completed(), err
		})
		require.NoError(t, err)
		require.True(t, r.Won)
		require.Equal(t, 1, w.writes("do"))

		tx, err := w.sqlDB.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		callers := &handle{tx}
		r, err = f.DoTx(t.Context(), callers, guard.Text("tx"), "sweep", func(_ context.Context, got *handle) (finalize.Outcome, error) {
			require.Same(t, callers, got)
			return completed(), nil
		})
		require.NoError(t, err)
		require.True(t, r.Won)
		require.NoError(t, tx.Commit())
		require.Equal(t, "COMPLETE_STABLE", w.state("tx"))

		_, err = f.DoTx(t.Context(), nil, guard.Text("tx"), "sweep", func(context.Context, *handle) (finalize.Outcome, error) { return completed(), nil })
		require.ErrorContains(t, err, "tx is nil")
	}, on("sql", "sqlite"), guardedBy("all"))
}

// An ORM that has no handle, or panics, leaves no transaction behind and the aggregate open.
func TestAnORMThatFails(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		no, panics := errors.New("no handle"), false
		broken := handles
		broken.With = func(context.Context, *sql.Tx) (*handle, error) {
			if panics {
				panic(no)
			}
			return nil, no
		}
		broken.Of = func(*handle) (endstate.SQLTx, error) { return nil, no }
		cfg := &finalize.Config{Aggregate: aggregate, Guard: guardNamed(w.guard, w.sqlite()), Logger: discard()}
		f, err := finalize.NewORM(w.sqlDB, broken, cfg)
		require.NoError(t, err)
		k := w.open("b1")
		never := func(context.Context, *handle) (finalize.Outcome, error) { panic("it ran") }
		_, err = f.Do(t.Context(), k, "sweep", never)
		require.ErrorIs(t, err, no)
		_, err = f.DoTx(t.Context(), &handle{}, k, "sweep", never)
		require.ErrorIs(t, err, no)
		panics = true
		require.PanicsWithValue(t, no, func() { _, _ = f.Do(t.Context(), k, "sweep", never) })
		w.requireNothingHeld()
		require.Empty(t, w.state("b1"))
		r, err := w.settle(t.Context(), k, "sweep", completed())
		require.NoError(t, err)
		require.True(t, r.Won)
	}, on("sql", "sqlite"), guardedBy("all"))
}

func TestAnORMsConfig(t *testing.T) {
	t.Parallel()
	db := dbtest.SQLite(t)
	cfg := &finalize.Config{Aggregate: aggregate, Guard: guardNamed("ledger", true)}
	for field, orm := range map[string]finalize.ORM[*handle]{"ORM.With": {Of: handles.Of}, "ORM.Of": {With: handles.With}} {
		_, err := finalize.NewORM(db, orm, cfg)
		require.ErrorIs(t, err, finalize.ErrConfig)
		require.ErrorContains(t, err, field)
	}
}
