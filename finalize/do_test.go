package finalize_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// requireSameReceipt checks I4: a loser is told what the winner was told.
func requireSameReceipt(t *testing.T, w *world, winner, loser finalize.Receipt) {
	t.Helper()
	require.True(t, winner.Won)
	require.False(t, loser.Won)
	require.Equal(t, winner.State, loser.State)
	require.Equal(t, w.hasLedger(), winner.Provenance)
	require.Equal(t, winner.Provenance, loser.Provenance)
	require.Equal(t, winner.Trigger, loser.Trigger)
	require.Equal(t, winner.Token, loser.Token)
	require.Equal(t, winner.Digest, loser.Digest)
	require.WithinDuration(t, winner.At, loser.At, 0)
	if w.hasLedger() {
		require.NotEqual(t, uuid.Nil, winner.Token)
		require.Len(t, winner.Digest, sha256.Size)
		require.WithinDuration(t, time.Now(), winner.At, time.Hour)
	} else {
		require.Equal(t, finalize.Receipt{Won: true, State: winner.State}, winner)
	}
}

func TestDoHasOneWinnerAndEveryLoserItsReceipt(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		won, err := w.do(t.Context(), key, "threshold", complete("b1"))
		require.NoError(t, err)
		require.True(t, won.Won)
		require.Equal(t, "COMPLETE_STABLE", won.State)
		if w.hasLedger() {
			require.Equal(t, finalize.Trigger("threshold"), won.Trigger)
		}
		for range 2 {
			lost, err := w.do(t.Context(), key, "sweep", never(t))
			require.NoError(t, err)
			requireSameReceipt(t, w, won, lost)

			lost, err = w.settle(t.Context(), key, "sweep", completed())
			require.NoError(t, err)
			requireSameReceipt(t, w, won, lost)

			tx, err := w.begin(t.Context(), "")
			require.NoError(t, err)
			lost, err = tx.doTx(t.Context(), key, "sweep", never(t))
			require.NoError(t, err)
			require.NoError(t, tx.Commit(t.Context()))
			requireSameReceipt(t, w, won, lost)
		}
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
		require.Equal(t, 1, w.writes("b1"))
		require.Equal(t, [4]int{1, 6, 0, 0}, w.trace.counts())
		require.Equal(t, finalize.Trigger("threshold"), w.trace.won[0].Trigger)
		require.Equal(t, "batch b1", w.trace.won[0].Ref.String())
		require.Equal(t, 1, w.trace.won[0].Attempt)
	})
}

func TestDoNotReadyWritesNothingAndTheNextTriggerWins(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		for _, tooEarly := range []error{finalize.ErrNotReady, fmt.Errorf("5 of 10: %w", finalize.ErrNotReady)} {
			r, err := w.do(t.Context(), key, "periodic", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
				require.NoError(t, write(ctx, tx, "b1"))
				return completed(), tooEarly
			})
			require.Equal(t, tooEarly, err, "handed on as it is")
			require.Zero(t, r)
			w.requireOpen("b1")
		}
		require.Equal(t, [4]int{0, 0, 2, 0}, w.trace.counts())

		r, err := w.do(t.Context(), key, "threshold", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
	})
}

type workFailed struct{ code int }

func (e *workFailed) Error() string { return fmt.Sprintf("work failed with %d", e.code) }

func TestDoHandsTheCallbacksErrorOn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		failure := &workFailed{7}
		runs := 0
		r, err := w.do(t.Context(), key, "periodic", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			runs++
			require.NoError(t, write(ctx, tx, "b1"))
			return completed(), failure
		})
		var got *workFailed
		require.ErrorAs(t, err, &got)
		require.Same(t, failure, got)
		require.ErrorContains(t, err, "batch b1, trigger periodic: work failed with 7")
		require.Zero(t, r)
		require.Equal(t, 1, runs)
		require.Equal(t, [4]int{0, 0, 0, 1}, w.trace.counts())
		w.requireOpen("b1")

		r, err = w.do(t.Context(), key, "threshold", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
	})
}

func TestDoOfAnAggregateThatDoesNotExist(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := guard.Text("nobody")
		_, err := w.do(t.Context(), key, "threshold", never(t))
		require.ErrorIs(t, err, guard.ErrNotFound)
		_, err = w.settle(t.Context(), key, "threshold", completed())
		require.ErrorIs(t, err, guard.ErrNotFound)
		tx, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		_, err = tx.doTx(t.Context(), key, "threshold", never(t))
		require.ErrorIs(t, err, guard.ErrNotFound)
		_, err = tx.Exec(t.Context(), "SELECT 1")
		require.NoError(t, err, "the caller's transaction stays usable")
		require.NoError(t, tx.Commit(t.Context()))
		require.Empty(t, w.events("nobody"))
	}, guardedBy("status", "all", "own"))
}

func TestLedgerKnowsEveryKey(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		r, err := w.do(t.Context(), guard.Text("of no table"), "threshold", complete("of no table"))
		require.NoError(t, err)
		require.True(t, r.Won)
		w.requireFinal("of no table", "COMPLETE_STABLE", "batch.completed")
	}, guardedBy("ledger"))
}

// A call that finds the aggregate held waits, and then decides on what was committed meanwhile.
func TestDoWaitsForTheHolder(t *testing.T) {
	t.Parallel()
	for _, commits := range []bool{true, false} {
		t.Run(fmt.Sprintf("holder commits=%v", commits), func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				key := w.open("b1")
				type result struct {
					r   finalize.Receipt
					err error
				}
				calls := map[string]func() (finalize.Receipt, error){
					"do": func() (finalize.Receipt, error) { return w.another().do(t.Context(), key, "do", complete("b1")) },
					"settle": func() (finalize.Receipt, error) {
						return w.another().settle(t.Context(), key, "settle", completed())
					},
				}
				results := make(chan result, len(calls))
				holder, err := w.do(t.Context(), key, "holder", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
					for _, call := range calls {
						go func() {
							r, err := call()
							results <- result{r, err}
						}()
					}
					if !w.sqlite() { // whose waiters can't be seen
						w.waiting(len(calls))
					}
					if !commits {
						return completed(), errors.Join(finalize.ErrNotReady, write(ctx, tx, "b1"))
					}
					return completed(), write(ctx, tx, "b1")
				})
				wins := 0
				if commits {
					require.NoError(t, err)
					require.True(t, holder.Won)
				} else {
					require.ErrorIs(t, err, finalize.ErrNotReady)
				}
				for range calls {
					got := <-results
					require.NoError(t, got.err)
					if commits {
						requireSameReceipt(t, w, holder, got.r)
					}
					if got.r.Won {
						wins++
					}
				}
				if !commits {
					require.Equal(t, 1, wins)
				}
				w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
			})
		})
	}
}

func TestACallIsBusyAfterClaimTimeout(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		other := connect(t, w.database, w.guard, w.dsn, w.schema, configured(func(c *finalize.Config) { c.ClaimTimeout = 4 * time.Second }))
		key := w.open("b1")
		r, err := w.do(t.Context(), key, "holder", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			_, err := other.do(ctx, key, "other", never(t))
			require.ErrorIs(t, err, finalize.ErrBusy)
			_, err = other.settle(ctx, key, "other", completed())
			require.ErrorIs(t, err, finalize.ErrBusy)
			callers, err := other.begin(ctx, "")
			require.NoError(t, err)
			_, err = callers.doTx(ctx, key, "other", never(t))
			require.ErrorIs(t, err, finalize.ErrBusy)
			require.NoError(t, ctx.Err())
			_ = callers.Rollback(ctx)
			return completed(), write(ctx, tx, "b1")
		})
		require.NoError(t, err)
		require.True(t, r.Won)
		require.Equal(t, [4]int{0, 0, 0, 3}, other.trace.counts())
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
	})
}

func TestHoldingOneAggregateLeavesOthersFree(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1", "b2")
		r, err := w.do(t.Context(), key, "holder", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			r, err := w.do(t.Context(), guard.Text("b2"), "other", complete("b2")) // another request's, not one that is nested
			require.NoError(t, err)
			require.True(t, r.Won)
			return completed(), nil
		})
		require.NoError(t, err)
		require.True(t, r.Won)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
		w.requireFinal("b2", "COMPLETE_STABLE", "batch.completed")
	}, on("pgx", "sql"))
}

// A status guard may see its own states change while it waits.
func TestDoFollowsAStateThatChangesWhileItWaits(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for _, to := range []string{"PERFORMING_COMPARISONS", "COMPLETE_STABLE"} {
			id := "to " + to
			key := w.open(id)
			other, err := w.db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			_, err = other.ExecContext(t.Context(), "UPDATE batches SET status = $1 WHERE id = $2", to, id)
			require.NoError(t, err)
			done := make(chan finalize.Receipt)
			go func() {
				defer close(done)
				r, err := w.do(t.Context(), key, "waiter", complete(id))
				if w.guard == "all" && terminal(to) {
					// Whoever set the status bypassed the ledger.
					if !errors.Is(err, guard.ErrAnomaly) {
						t.Errorf("expected an anomaly, got %v", err)
					}
				} else if err != nil {
					t.Error(err)
				}
				done <- r
			}()
			w.waiting(1)
			require.NoError(t, other.Commit())
			require.Equal(t, !terminal(to), (<-done).Won)
			<-done
		}
	}, on("pgx", "sql"), guardedBy("status", "all", "own"), tampered())
}

// Batch 1 never closes invoice 1, though they share a ledger and an outbox.
func TestAggregateTypesAreApart(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		invoices := connect(t, w.database, w.guard, w.dsn, w.schema, configured(func(c *finalize.Config) { c.Aggregate = "invoice" }), tampered())
		key := guard.Text("1")
		first, err := w.do(t.Context(), key, "threshold", complete("1"))
		require.NoError(t, err)
		require.True(t, first.Won)
		second, err := invoices.do(t.Context(), key, "paid", complete("1"))
		require.NoError(t, err)
		require.True(t, second.Won)
		require.Equal(t, []string{"batch/t:1#batch.completed", "invoice/t:1#batch.completed"}, w.text("SELECT dedup_key FROM endstate_outbox ORDER BY 1"))
	}, guardedBy("ledger"))
}

// Two services, or two tenants, may keep ledgers of one name in two schemas of one database.
func TestLedgersOfTwoSchemasDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		other := newWorld(t, w.database, w.guard, w.dsn, configured(func(c *finalize.Config) { c.ClaimTimeout = 20 * time.Second }))
		other.open("b1")
		r, err := w.do(t.Context(), w.open("b1"), "holder", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			r, err := other.do(ctx, guard.Text("b1"), "other", complete("b1"))
			require.NoError(t, err)
			require.True(t, r.Won)
			return completed(), write(ctx, tx, "b1")
		})
		require.NoError(t, err)
		require.True(t, r.Won)
	}, on("pgx", "sql"), guardedBy("ledger", "all"))
}
