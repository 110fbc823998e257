package finalize_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// unwound runs f on a goroutine of its own, and returns the value that it panicked with; nil if it exited its goroutine.
func unwound(t *testing.T, f func()) any {
	t.Helper()
	value := make(chan any)
	go func() {
		returned := false
		defer func() {
			if returned {
				t.Error("returned, though it was to panic or exit")
			}
			value <- recover()
		}()
		f()
		returned = true
	}()
	return <-value
}

// bail is a way not to return.
type bail struct {
	value any // of the panic; nil exits the goroutine
}

func (b bail) out() {
	if b.value == nil {
		runtime.Goexit()
	}
	panic(b.value)
}

func bails() map[string]bail { return map[string]bail{"panic": {&workFailed{1}}, "Goexit": {}} }

// F8: whatever unwinds the stack, the transaction is rolled back, the connection is back, and the panic goes on.
func TestPanicInTheCallback(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for name, b := range bails() {
			key := w.open(name)
			for _, busy := range []bool{false, true} {
				callback := func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
					require.NoError(t, write(ctx, tx, name))
					if busy && !w.sqlite() {
						rows, err := tx.Query(ctx, "SELECT generate_series(1, 100000)")
						require.NoError(t, err)
						require.True(t, rows.Next())
					}
					b.out()
					return completed(), nil
				}
				require.Equal(t, b.value, unwound(t, func() { _, _ = w.do(t.Context(), key, "threshold", callback) }))
				w.requireNothingHeld()
				w.requireOpen(name)
			}

			callers, err := w.begin(t.Context(), "")
			require.NoError(t, err)
			require.NoError(t, write(t.Context(), callers, "caller "+name))
			require.Equal(t, b.value, unwound(t, func() {
				_, _ = callers.doTx(t.Context(), key, "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
					require.NoError(t, write(ctx, tx, name))
					b.out()
					return completed(), nil
				})
			}))
			require.NoError(t, callers.Commit(t.Context()), "the caller's transaction stays usable")
			require.Equal(t, 1, w.writes("caller "+name))
			w.requireOpen(name)

			r, err := w.do(t.Context(), key, "sweep", complete(name))
			require.NoError(t, err)
			require.True(t, r.Won)
		}
	}, conns(1))
}

// trapGuard is a guard that bails out where the test wants it to.
type trapGuard struct {
	ownGuard
	claim, settle *func()
}

func (g trapGuard) Claim(ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error) {
	rec, err := g.ownGuard.Claim(ctx, tx, ref)
	if *g.claim != nil {
		(*g.claim)()
	}
	return rec, err
}

func (g trapGuard) Settle(ctx context.Context, tx endstate.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error) {
	rec, err := g.ownGuard.Settle(ctx, tx, ref, to)
	if *g.settle != nil {
		(*g.settle)()
	}
	return rec, err
}

// F8: a guard panics.
func TestPanicInTheGuard(t *testing.T) {
	t.Parallel()
	for _, kind := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var claim, settle func()
			each(t, func(t *testing.T, w *world) {
				for _, trap := range []*func(){&claim, &settle} {
					for name, b := range bails() {
						id := name
						if trap == &settle {
							id += " in settle"
						}
						key := w.open(id)
						*trap = b.out
						require.Equal(t, b.value, unwound(t, func() { _, _ = w.do(t.Context(), key, "threshold", complete(id)) }))
						w.requireNothingHeld()
						w.requireOpen(id)
						require.Equal(t, b.value, unwound(t, func() { _, _ = w.settle(t.Context(), key, "threshold", completed()) }))
						w.requireNothingHeld()
						w.requireOpen(id)

						callers, err := w.begin(t.Context(), "")
						require.NoError(t, err)
						require.NoError(t, write(t.Context(), callers, "caller "+id))
						require.Equal(t, b.value, unwound(t, func() { _, _ = callers.doTx(t.Context(), key, "threshold", complete(id)) }))
						require.NoError(t, callers.Commit(t.Context()), "the caller's transaction stays usable")
						require.Equal(t, 1, w.writes("caller "+id))
						w.requireOpen(id)
						*trap = nil

						r, err := w.do(t.Context(), key, "sweep", complete(id))
						require.NoError(t, err)
						require.True(t, r.Won)
					}
				}
			}, on(kind), guardedBy("own"), conns(1), configured(func(c *finalize.Config) {
				c.Guard = trapGuard{c.Guard.(ownGuard), &claim, &settle}
			}))
		})
	}
}

// States that a function of the user's decides on run that function inside the guard.
func TestPanicInAStatesFunction(t *testing.T) {
	t.Parallel()
	for _, kind := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var trap func()
			each(t, func(t *testing.T, w *world) {
				key := w.open("b1")
				for _, b := range bails() {
					trap = b.out
					require.Equal(t, b.value, unwound(t, func() { _, _ = w.do(t.Context(), key, "threshold", complete("b1")) }))
					trap = nil
					w.requireNothingHeld()
					w.requireOpen("b1")
				}
				r, err := w.do(t.Context(), key, "sweep", complete("b1"))
				require.NoError(t, err)
				require.True(t, r.Won)
			}, on(kind), guardedBy("status"), conns(1), configured(func(c *finalize.Config) {
				s := statusGuard()
				s.Terminal = guard.Func(func(state string) bool {
					if trap != nil {
						trap()
					}
					return terminal(state)
				})
				c.Guard = s
			}))
		})
	}
}

// F8: a hook panics.
func TestPanicInATraceHook(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for name, b := range bails() {
			trapped := connect(t, w.database, w.guard, w.dsn, w.schema, conns(1), configured(func(c *finalize.Config) {
				c.MaxAttempts = 2
				c.Trace = &finalize.Trace{
					Won:      func(context.Context, finalize.Call, finalize.Receipt) { b.out() },
					Lost:     func(context.Context, finalize.Call, finalize.Receipt) { b.out() },
					NotReady: func(context.Context, finalize.Call) { b.out() },
					Failed:   func(context.Context, finalize.Call, error) { b.out() },
					Retry:    func(context.Context, finalize.Call, error, time.Duration) { b.out() },
				}
			}))
			key := w.open(name)
			steps := []work{
				func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
					return finalize.Outcome{}, finalize.ErrNotReady
				},
				func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
					return finalize.Outcome{}, &workFailed{2}
				},
				func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) { // retried
					return finalize.Outcome{}, brokenOff(ctx, tx)
				},
			}
			for _, step := range steps {
				require.Equal(t, b.value, unwound(t, func() { _, _ = trapped.do(t.Context(), key, "threshold", step) }))
				trapped.requireNothingHeld()
				w.requireOpen(name)
			}
			// A win is committed when its hook runs.
			require.Equal(t, b.value, unwound(t, func() { _, _ = trapped.do(t.Context(), key, "threshold", complete(name)) }))
			trapped.requireNothingHeld()
			w.requireFinal(name, "COMPLETE_STABLE", "batch.completed")
			require.Equal(t, b.value, unwound(t, func() { _, _ = trapped.do(t.Context(), key, "sweep", never(t)) }))
			trapped.requireNothingHeld()
		}
	})
}

// brokenOff makes an error for which the whole transaction is run again; on SQLite, where none can be had at will, another.
func brokenOff(ctx context.Context, tx endstate.Tx) error {
	_, err := tx.Exec(ctx, "DO $$ BEGIN RAISE EXCEPTION 'broken off' USING ERRCODE = '40001'; END $$")
	return err
}
