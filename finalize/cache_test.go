package finalize_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

// cached turns the cache on, which the worlds of the other tests have off.
func cached() option {
	return configured(func(c *finalize.Config) { c.Cache.Off = false })
}

// undo takes a finalization back behind the finalizer's back, as a restore of a backup does.
func (w *world) undo(id string) {
	w.t.Helper()
	w.exec("UPDATE batches SET status = 'PENDING' WHERE id = $1", id)
	w.exec("DELETE FROM endstate_outbox WHERE aggregate_id = $1", id)
	if w.hasLedger() {
		w.exec(`DELETE FROM endstate_ledger WHERE "key" = $1`, guard.Text(id).Encode())
	}
}

// asksTheDatabase reports whether a repeat is answered by the database. To see it, the finalization is undone.
func (w *world) asksTheDatabase(id string) bool {
	w.t.Helper()
	w.undo(id)
	asked := errors.New("asked")
	_, err := w.do(w.t.Context(), guard.Text(id), "repeat", func(context.Context, endstate.Tx) (finalize.Outcome, error) {
		return finalize.Outcome{}, asked
	})
	if err != nil {
		require.ErrorIs(w.t, err, asked)
	}
	return err != nil
}

// Wins and losses are remembered, with the full receipt, until they are forgotten: also if the rows are gone meanwhile, which
// is when the cache is wrong.
func TestARepeatIsAnsweredFromMemory(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		for id, first := range map[string]func(guard.Key) (finalize.Receipt, error){
			"do wins":      func(key guard.Key) (finalize.Receipt, error) { return w.do(ctx, key, "first", complete("do wins")) },
			"settle wins":  func(key guard.Key) (finalize.Receipt, error) { return w.settle(ctx, key, "first", completed()) },
			"do loses":     func(key guard.Key) (finalize.Receipt, error) { return w.do(ctx, key, "first", never(t)) },
			"settle loses": func(key guard.Key) (finalize.Receipt, error) { return w.settle(ctx, key, "first", completed()) },
		} {
			key := w.open(id)
			if id == "do loses" || id == "settle loses" {
				_, err := w.another().settle(ctx, key, "elsewhere", completed())
				require.NoError(t, err)
			}
			r, err := first(key)
			require.NoError(t, err)
			require.False(t, w.asksTheDatabase(id), id)
			r.Won = false
			for range 2 {
				repeat, err := w.do(ctx, key, "repeat", never(t))
				require.NoError(t, err)
				require.Equal(t, r, repeat)
				repeat, err = w.settle(ctx, key, "repeat", completed())
				require.NoError(t, err)
				require.Equal(t, r, repeat)
				repeat, err = w.settle(ctx, key, "repeat", quietly())
				require.NoError(t, err)
				require.True(t, repeat.Differs)
			}

			require.NoError(t, w.forget(t.Context(), key))
			r, err = w.do(ctx, key, "after it was undone", complete(id))
			require.NoError(t, err)
			require.True(t, r.Won, "%s: forgotten", id)
		}
	}, cached(), tampered())
}

// What isn't committed, or was seen inside a caller's transaction, is never remembered.
func TestOnlyWhatIsCommittedIsRemembered(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		inTx := func(id string, commit bool, fn work) finalize.Receipt {
			tx, err := w.begin(ctx, "")
			require.NoError(t, err)
			r, err := tx.doTx(ctx, guard.Text(id), "caller", fn)
			require.NoError(t, err)
			if commit {
				require.NoError(t, tx.Commit(ctx))
			} else {
				require.NoError(t, tx.Rollback(ctx))
			}
			return r
		}
		for id, call := range map[string]func(id string){
			"not ready": func(id string) {
				_, err := w.do(ctx, guard.Text(id), "t", func(context.Context, endstate.Tx) (finalize.Outcome, error) {
					return completed(), finalize.ErrNotReady
				})
				require.ErrorIs(t, err, finalize.ErrNotReady)
			},
			"panic": func(id string) {
				require.Panics(t, func() {
					_, _ = w.do(ctx, guard.Text(id), "t", func(context.Context, endstate.Tx) (finalize.Outcome, error) { panic("boom") })
				})
			},
			"rolled back":       func(id string) { require.True(t, inTx(id, false, complete(id)).Won) },
			"committed by DoTx": func(id string) { require.True(t, inTx(id, true, complete(id)).Won) },
			"lost in rolled back": func(id string) {
				_, err := w.another().settle(ctx, guard.Text(id), "elsewhere", completed())
				require.NoError(t, err)
				require.False(t, inTx(id, false, never(t)).Won)
			},
			"refused": func(id string) {
				_, err := w.settle(ctx, guard.Text(id), "t", finalize.Outcome{})
				require.ErrorIs(t, err, guard.ErrNotTerminal)
			},
		} {
			w.open(id)
			call(id)
			require.True(t, w.asksTheDatabase(id), id)
		}
	}, cached(), tampered())
}

// A repeat with something wrong about it is told so, as by the database.
func TestARepeatIsChecked(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		_, err := w.settle(t.Context(), key, "first", completed())
		require.NoError(t, err)
		_, err = w.do(t.Context(), key, "", never(t))
		require.ErrorContains(t, err, "trigger is empty")
		_, err = w.do(t.Context(), key, "t", nil)
		require.ErrorContains(t, err, "fn is nil")
		_, err = w.settle(t.Context(), key, "t", finalize.Outcome{State: ""})
		require.ErrorIs(t, err, guard.ErrNotTerminal)
		if w.guard == "status" || w.guard == "all" {
			_, err = w.settle(t.Context(), key, "t", finalize.Outcome{State: "PENDING"})
			require.ErrorIs(t, err, guard.ErrNotTerminal)
		}
	}, cached())
}

// A COMMIT whose outcome isn't known isn't remembered; once it is known, the truth is.
func TestTheCacheAndAmbiguousCommits(t *testing.T) {
	on := func(c *finalize.Config) { c.Cache.Off = false }
	for _, c := range faultCases() {
		t.Run(c.name+"/unknown", func(t *testing.T) {
			t.Parallel()
			f := c.setUp(t, on, func(c *finalize.Config) { c.ResolveTimeout = 100 * time.Millisecond })
			f.resolving = func() { f.proxy.Refuse(true) }
			fault := f.proxy.Arm(&pgfault.Fault{SQL: c.commit(), Do: pgfault.CutBefore})
			_, err := f.call(t.Context())
			fault.RequireFired(t)
			require.ErrorIs(t, err, finalize.ErrOutcomeUnknown)
			f.proxy.Refuse(false)
			f.resolving = func() {}
			r, err := f.call(t.Context())
			require.NoError(t, err)
			require.True(t, r.Won, "it had not been committed, and the cache doesn't say otherwise")
			f.requireFinal(t, c, "COMPLETE_STABLE")
		})
		t.Run(c.name+"/a rival won", func(t *testing.T) {
			t.Parallel()
			f := c.setUp(t, on)
			f.resolving = func() {
				f.resolving = func() {}
				r, err := f.rival(t.Context())
				require.NoError(t, err)
				require.True(t, r.Won)
			}
			fault := f.proxy.Arm(&pgfault.Fault{SQL: c.commit(), Do: pgfault.CutBefore})
			for range 2 {
				r, err := f.call(t.Context())
				fault.RequireFired(t)
				require.NoError(t, err)
				require.False(t, r.Won)
				require.Equal(t, "ERROR_PROCESSING", r.State)
			}
			f.requireFinal(t, c, "ERROR_PROCESSING")
		})
		t.Run(c.name+"/won", func(t *testing.T) {
			t.Parallel()
			f := c.setUp(t, on)
			fault := f.proxy.Arm(&pgfault.Fault{SQL: c.commit(), Do: pgfault.CutAfterReply})
			r, err := f.call(t.Context())
			fault.RequireFired(t)
			require.NoError(t, err)
			require.True(t, r.Won)
			var again finalize.Receipt
			require.Empty(t, f.proxy.Trips(func() { again, err = f.call(t.Context()) }), "answered from memory")
			require.NoError(t, err)
			r.Won = false
			require.Equal(t, r, again)
		})
	}
}

// The runaway loop: a repeat allocates nothing, its key aside.
func TestARepeatAllocatesNothing(t *testing.T) {
	fin, err := finalize.NewSQL(dbtest.SQLite(t), &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}, Logger: discard()})
	require.NoError(t, err)
	require.NoError(t, fin.Migrate(t.Context()))
	key, out := guard.Int(1234567), completed()
	_, err = fin.Settle(t.Context(), key, "sweep", out)
	require.NoError(t, err)
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		r, err := fin.Do(ctx, key, "loop", func(context.Context, *sql.Tx) (finalize.Outcome, error) { panic("the callback of a loser ran") })
		if err != nil || r.Won {
			t.Error(r, err)
		}
		r, err = fin.Settle(ctx, key, "loop", out)
		if err != nil || r.Won {
			t.Error(r, err)
		}
	}))
}
