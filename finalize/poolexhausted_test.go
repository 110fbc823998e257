package finalize_test

import (
	"context"
	"iter"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// exhaust takes every connection of the finalizer's pool until the test ends, or the function is called.
func (w *world) exhaust(n int) (free func()) {
	w.t.Helper()
	var frees []func()
	for range n {
		if w.pool != nil {
			conn, err := w.pool.Acquire(w.t.Context())
			require.NoError(w.t, err)
			frees = append(frees, conn.Release)
		} else {
			conn, err := w.sqlDB.Conn(w.t.Context())
			require.NoError(w.t, err)
			frees = append(frees, func() { _ = conn.Close() })
		}
	}
	return func() {
		for _, f := range frees {
			f()
		}
	}
}

// F34: a pool without a free connection is not an aggregate that another call holds.
func TestAnExhaustedPoolIsNamed(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ctx, key := t.Context(), w.open("b1")
		free := w.exhaust(2)
		never := func(context.Context, endstate.Tx) (finalize.Outcome, error) {
			t.Error("the callback ran")
			return completed(), nil
		}
		calls := map[string]func() error{
			"Do":         func() error { _, err := w.do(ctx, key, "t", never); return err },
			"Settle":     func() error { _, err := w.settle(ctx, key, "t", completed()); return err },
			"DoPrepared": func() error { _, err := w.prepare(ctx, key, "t", stages{Prepare: neverPrepare(t)}); return err },
			"SettleMany": func() error {
				_, err := w.many(ctx, "t", []finalize.Item{{Key: key, Outcome: completed()}})
				return err
			},
			"Check": func() error { return w.check(ctx) },
		}
		s, err := w.sweeper(func(context.Context, endstate.Tx, guard.Key) (finalize.Outcome, error) { return completed(), nil },
			&finalize.SweeperConfig{Due: func(context.Context, endstate.Querier) iter.Seq2[guard.Key, error] {
				return func(func(guard.Key, error) bool) { t.Error("looked for what is due") }
			}})
		require.NoError(t, err)
		calls["Sweep"] = func() error { return s.Sweep(ctx).Err }
		for name, call := range calls {
			err := call()
			require.ErrorIs(t, err, finalize.ErrPoolExhausted, name)
			require.ErrorContains(t, err, "2 of 2", name)
			require.NotErrorIs(t, err, finalize.ErrBusy, name)
		}
		free()
		w.requireOpen("b1")
		w.requireNothingHeld()
	}, conns(2), configured(func(c *finalize.Config) { c.ClaimTimeout = 100 * time.Millisecond }))
}

// F34: so it is for those who go together.
func TestAnExhaustedPoolIsNamedToAGroup(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(20)
		w.open(keys...)
		free := w.exhaust(2)
		_, errs, took := w.settleAll(keys, always(completed()))
		for i, err := range errs {
			require.ErrorIs(t, err, finalize.ErrPoolExhausted)
			require.NotErrorIs(t, err, finalize.ErrBusy)
			require.Less(t, took[i], 30*time.Second, "nobody waits again alone")
		}
		free()
	}, on("pgx"), guardedBy("all"), conns(2), configured(func(c *finalize.Config) {
		grouped(c)
		c.ClaimTimeout = 5 * time.Second
	}))
}
