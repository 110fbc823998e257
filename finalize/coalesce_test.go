package finalize_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// together lets a first call hold the key until n others wait for it, then lets it end as fn does, and returns the first's
// error and what the others got.
func (w *world) together(id string, n int, first work, others func(i int) (finalize.Receipt, error)) ([]called, error) {
	w.t.Helper()
	results := make([]called, n)
	var group sync.WaitGroup
	_, err := w.do(w.t.Context(), guard.Text(id), "first", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
		for i := range n {
			group.Go(func() {
				r, err := others(i)
				results[i] = called{Key: id, Receipt: r}
				if err != nil {
					results[i].Err = err.Error()
				}
			})
		}
		w.queue(id, n)
		return first(ctx, tx)
	})
	group.Wait()
	require.Zero(w.t, w.queued(guard.Text(id)))
	return results, err
}

// queue waits until n calls wait for the one that is under way.
func (w *world) queue(id string, n int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.queued(guard.Text(id)) == n }, long, time.Millisecond)
}

// F9: the incident's storm of 83 calls, all at once: one connection is taken, and each call gets the receipt.
func TestAStormTakesOneConnection(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.open("storm")
		var winner finalize.Receipt
		var acquired int64
		results, err := w.together("storm", 82, func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			if w.pool != nil {
				acquired = w.pool.Stat().AcquireCount()
			}
			return complete("storm")(ctx, tx)
		}, func(i int) (finalize.Receipt, error) {
			trigger := finalize.Trigger(fmt.Sprintf("runaway %d", i))
			if i%2 == 0 {
				return w.do(t.Context(), guard.Text("storm"), trigger, never(t))
			}
			return w.settle(t.Context(), guard.Text("storm"), trigger, quietly())
		})
		require.NoError(t, err)
		if w.pool != nil {
			require.Equal(t, acquired, w.pool.Stat().AcquireCount(), "connections that the other 82 took")
		}
		winner, err = w.do(t.Context(), guard.Text("storm"), "look", never(t))
		require.NoError(t, err)
		for i, c := range results {
			require.Empty(t, c.Err)
			require.Equal(t, i%2 == 1, c.Receipt.Differs, "a Settle with another outcome is told so")
			c.Receipt.Differs = false
			require.Equal(t, winner, c.Receipt)
		}
		require.Equal(t, [4]int{1, 83, 0, 0}, w.trace.counts())
		require.Len(t, w.trace.hot, 1, "and it is reported")
		w.requireFinal("storm", "COMPLETE_STABLE", "batch.completed")
	})
}

// When the first isn't ready, fails, panics or exits, that is its own affair: the next one goes with its own callback.
func TestTheNextOneGoesWithItsOwnCallback(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, first := range map[string]work{
		"not ready": func(context.Context, endstate.Tx) (finalize.Outcome, error) {
			return finalize.Outcome{}, finalize.ErrNotReady
		},
		"fails":  func(context.Context, endstate.Tx) (finalize.Outcome, error) { return finalize.Outcome{}, boom },
		"panics": func(context.Context, endstate.Tx) (finalize.Outcome, error) { panic(boom) },
		"exits":  func(context.Context, endstate.Tx) (finalize.Outcome, error) { runtime.Goexit(); panic("unreachable") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				w.open("b1")
				var ran atomic.Int32
				results := make(chan []called, 1)
				ended := make(chan any, 1)
				go func() { // where the first one may panic or exit
					defer func() { ended <- recover() }()
					var group sync.WaitGroup
					list := make([]called, 5)
					defer func() { group.Wait(); results <- list }()
					_, err := w.do(t.Context(), guard.Text("b1"), "first", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
						for i := range list {
							group.Go(func() {
								r, err := w.do(t.Context(), guard.Text("b1"), finalize.Trigger(fmt.Sprint(i)), func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
									if ran.Add(1) < 3 {
										return finalize.Outcome{}, finalize.ErrNotReady
									}
									return complete("b1")(ctx, tx)
								})
								list[i] = called{Receipt: r}
								if err != nil {
									list[i].Err = err.Error()
								}
							})
						}
						w.queue("b1", 5)
						return first(ctx, tx)
					})
					if err == nil {
						t.Error("the first one's call did not fail")
					}
				}()
				wins, notReady := 0, 0
				for _, c := range <-results {
					if c.Receipt.Won {
						wins++
					}
					if c.Err != "" {
						require.Equal(t, finalize.ErrNotReady.Error(), c.Err)
						notReady++
					}
				}
				require.Equal(t, name == "panics", <-ended != nil, "a panic goes to whose it is")
				require.Equal(t, 1, wins)
				require.Equal(t, 2, notReady, "each with its own callback")
				require.EqualValues(t, 3, ran.Load())
				w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
			}, guardedBy("all"))
		})
	}
}

// Each call's context is its own: who is cancelled leaves at once, and a cancelled first one fails nobody else.
func TestContextsAreEachCallsOwn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.open("b1")
		ctx, cancelFirst := context.WithCancelCause(t.Context())
		holds, goOn, firstDone := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			_, err := w.do(ctx, guard.Text("b1"), "first", func(context.Context, endstate.Tx) (finalize.Outcome, error) {
				close(holds)
				<-goOn
				return completed(), nil
			})
			firstDone <- err
		}()
		<-holds
		second := make(chan error, 1)
		go func() {
			_, err := w.settle(t.Context(), guard.Text("b1"), "second", completed())
			second <- err
		}()
		w.queue("b1", 1)

		waiterCtx, cancelWaiter := context.WithCancelCause(t.Context())
		waiter := make(chan error, 1)
		go func() {
			_, err := w.do(waiterCtx, guard.Text("b1"), "waiter", never(t))
			waiter <- err
		}()
		w.queue("b1", 2)
		cancelWaiter(errShutdown)
		require.ErrorIs(t, <-waiter, errShutdown, "while the first one is still at work")
		require.Equal(t, 1, w.queued(guard.Text("b1")))

		cancelFirst(errShutdown)
		close(goOn)
		require.ErrorIs(t, <-firstDone, errShutdown)
		require.NoError(t, <-second)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
	})
}

// A call waits for one of its own process for as long as for one of another.
func TestAWaitingCallIsBusyInTheEnd(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.open("b1")
		_, err := w.do(t.Context(), guard.Text("b1"), "first", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			_, err := w.do(t.Context(), guard.Text("b1"), "second", never(t))
			require.ErrorIs(t, err, finalize.ErrBusy)
			return completed(), nil
		})
		require.NoError(t, err)
	}, guardedBy("all"), configured(func(c *finalize.Config) { c.ClaimTimeout = 3 * time.Second }))
}
