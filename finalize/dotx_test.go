package finalize_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

func TestDoTxWinsIfTheCallerCommits(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		for _, commits := range []bool{false, true} {
			tx, err := w.begin(t.Context(), "")
			require.NoError(t, err)
			require.NoError(t, write(t.Context(), tx, "b1"))
			won, err := tx.doTx(t.Context(), key, "threshold", complete("b1"))
			require.NoError(t, err)
			require.True(t, won.Won)

			// Inside the same transaction a second trigger loses already.
			lost, err := tx.doTx(t.Context(), key, "sweep", never(t))
			require.NoError(t, err)
			requireSameReceipt(t, w, won, lost)

			w.requireOpen("b1") // for everybody else
			if !commits {
				require.NoError(t, tx.Rollback(t.Context()))
				w.requireOpen("b1")
				continue
			}
			require.NoError(t, write(t.Context(), tx, "b1"))
			require.NoError(t, tx.Commit(t.Context()))
			w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
			require.Equal(t, 3, w.writes("b1"))
		}
	})
}

func TestDoTxUndoesTheCallbackAloneUnlessItWins(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		failure := errors.New("no ranking")
		for _, reason := range []error{finalize.ErrNotReady, failure} {
			id := "b " + reason.Error()
			key := w.open(id)
			tx, err := w.begin(t.Context(), "")
			require.NoError(t, err)
			require.NoError(t, write(t.Context(), tx, "caller "+id))
			_, err = tx.doTx(t.Context(), key, "periodic", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
				return completed(), errors.Join(reason, write(ctx, tx, id))
			})
			require.ErrorIs(t, err, reason)
			require.NoError(t, write(t.Context(), tx, "caller "+id), "the transaction stays usable")
			require.NoError(t, tx.Commit(t.Context()))
			w.requireOpen(id)
			require.Equal(t, 2, w.writes("caller "+id))

			r, err := w.do(t.Context(), key, "threshold", complete(id))
			require.NoError(t, err)
			require.True(t, r.Won, "the next trigger wins")
		}
	})
}

// After an error that broke the callback's statement, PostgreSQL takes no more until the savepoint is rolled back to.
func TestDoTxSurvivesABrokenStatement(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		tx, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		require.NoError(t, write(t.Context(), tx, "caller"))
		_, err = tx.doTx(t.Context(), key, "periodic", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			_, err := tx.Exec(ctx, "INSERT INTO nowhere VALUES (1)")
			require.Error(t, err)
			return completed(), err
		})
		require.Error(t, err)
		r, err := tx.doTx(t.Context(), key, "threshold", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
		require.NoError(t, tx.Commit(t.Context()))
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
		require.Equal(t, 1, w.writes("caller"))
	})
}

func TestDoTxOfSeveralKeysInOneTransaction(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.open("b1", "b2", "b3")
		tx, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		for _, id := range []string{"b1", "b2"} {
			r, err := tx.doTx(t.Context(), guard.Text(id), "threshold", func(ctx context.Context, inner endstate.Tx) (finalize.Outcome, error) {
				return completed(), write(ctx, inner, id)
			})
			require.NoError(t, err)
			require.True(t, r.Won)
		}
		_, err = tx.doTx(t.Context(), guard.Text("b3"), "threshold", func(ctx context.Context, inner endstate.Tx) (finalize.Outcome, error) {
			return completed(), errors.Join(write(ctx, inner, "b3"), finalize.ErrNotReady)
		})
		require.ErrorIs(t, err, finalize.ErrNotReady)
		require.NoError(t, tx.Commit(t.Context()))
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
		w.requireFinal("b2", "COMPLETE_STABLE", "batch.completed")
		w.requireOpen("b3")
	})
}

func TestDoTxInATransactionThatCannotGoOn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		for _, commits := range []bool{true, false} {
			ended, err := w.begin(t.Context(), "")
			require.NoError(t, err)
			if commits {
				require.NoError(t, ended.Commit(t.Context()))
			} else {
				require.NoError(t, ended.Rollback(t.Context()))
			}
			_, err = ended.doTx(t.Context(), key, "threshold", never(t))
			require.ErrorIs(t, err, finalize.ErrTxEnded)
		}
		if !w.sqlite() { // where a failed statement aborts nothing
			aborted, err := w.begin(t.Context(), "")
			require.NoError(t, err)
			_, err = aborted.Exec(t.Context(), "SELECT 1/0")
			require.Error(t, err)
			_, err = aborted.doTx(t.Context(), key, "threshold", never(t))
			require.ErrorIs(t, err, finalize.ErrTxAborted)
			if err := aborted.Rollback(t.Context()); dbtest.Recovers() {
				require.NoError(t, err)
			}
		}
		w.requireOpen("b1")
	})
}

// F6: 40001 and 40P01 can be cured by nobody but the caller, who runs the whole transaction again.
func TestDoTxHandsConflictsOn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for _, code := range []string{"40001", "40P01"} {
			tx, err := w.begin(t.Context(), "")
			require.NoError(t, err)
			runs := 0
			_, err = tx.doTx(t.Context(), w.open("b"+code), "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
				runs++
				_, err := tx.Exec(ctx, "DO $$ BEGIN RAISE EXCEPTION 'broken off' USING ERRCODE = '"+code+"'; END $$")
				return finalize.Outcome{}, err
			})
			require.Equal(t, code, sqlState(err))
			require.Equal(t, 1, runs)
			require.Zero(t, w.trace.retries())
			require.NoError(t, tx.Rollback(t.Context()))
			w.requireOpen("b" + code)
		}
	}, on("pgx", "sql"))
}

func sqlState(err error) string {
	var s interface{ SQLState() string }
	var fields interface{ Field(byte) string } // of bun's pgdriver
	switch {
	case errors.As(err, &s):
		return s.SQLState()
	case errors.As(err, &fields):
		return fields.Field('C')
	}
	return ""
}

// F6: a caller whose snapshot is older than the winner's commit either learns of it or gets 40001. It never wins, and never
// writes an event.
func TestDoTxUnderOtherIsolationLevels(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				key := w.open("b1", "b2")
				tx, err := w.begin(t.Context(), level)
				require.NoError(t, err)
				_, err = tx.Exec(t.Context(), "SELECT 1 FROM batches") // takes the snapshot
				require.NoError(t, err)
				_, err = w.do(t.Context(), key, "winner", complete("b1"))
				require.NoError(t, err)
				r, err := tx.doTx(t.Context(), key, "late", complete("b1"))
				require.Equal(t, "40001", sqlState(err), "%v", err)
				require.Zero(t, r)
				require.Zero(t, w.trace.retries())
				require.NoError(t, tx.Rollback(t.Context()))
				w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
				require.Equal(t, 1, w.writes("b1"))

				// With a new snapshot it is a loser, and may win others.
				tx, err = w.begin(t.Context(), level)
				require.NoError(t, err)
				r, err = tx.doTx(t.Context(), key, "again", never(t))
				require.NoError(t, err)
				require.False(t, r.Won)
				r, err = tx.doTx(t.Context(), guard.Text("b2"), "again", complete("b2"))
				require.NoError(t, err)
				require.True(t, r.Won)
				require.NoError(t, tx.Commit(t.Context()))
				w.requireFinal("b2", "COMPLETE_STABLE", "batch.completed")
			}, on("pgx", "sql"))
		})
	}
}

// F10: two transactions finalize two keys in opposite order. The database ends the embrace, one of the callers is told by
// 40P01, and runs its transaction again.
func TestDoTxInOppositeOrderIsADeadlockThatIsReported(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.open("b1", "b2")
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var arrived, done [2]chan struct{}
		for i := range arrived {
			arrived[i], done[i] = make(chan struct{}), make(chan struct{})
		}
		type result struct {
			wins, deadlocks int
			err             error
		}
		results := make(chan result, 2)
		for i, order := range [][]string{{"b1", "b2"}, {"b2", "b1"}} {
			go func() {
				var res result
				defer func() { results <- res }()
				defer close(done[i])
				for first := true; ; first = false {
					tx, err := w.begin(ctx, "")
					if err != nil {
						res.err = err
						return
					}
					wins := 0
					for n, id := range order {
						var r finalize.Receipt
						r, err = tx.doTx(ctx, guard.Text(id), finalize.Trigger(fmt.Sprintf("caller %d", i)), complete(id))
						if err != nil {
							break
						}
						if r.Won {
							wins++
						}
						if first && n == 0 {
							close(arrived[i])
							select {
							case <-arrived[1-i]:
							case <-ctx.Done():
							}
						}
					}
					if err == nil {
						res.err, res.wins = tx.Commit(ctx), wins
						return
					}
					_ = tx.Rollback(ctx)
					if sqlState(err) != "40P01" {
						res.err = err
						return
					}
					res.deadlocks++
					<-done[1-i] // at once it might meet the other one again, and again
				}
			}()
		}
		a, b := <-results, <-results
		require.NoError(t, errors.Join(a.err, b.err))
		require.Equal(t, 1, a.deadlocks+b.deadlocks, "the fault fired")
		require.Equal(t, 2, a.wins+b.wins)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
		w.requireFinal("b2", "COMPLETE_STABLE", "batch.completed")
	}, on("pgx", "sql"), param("deadlock_timeout", "50ms"))
}

// A transaction that the caller ended may have its connection in another one's hands already.
func TestDoTxKeepsOffTheConnectionOfAnEndedTransaction(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		ended, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		require.NoError(t, ended.Commit(t.Context()))
		another, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		require.NoError(t, write(t.Context(), another, "another"))
		_, err = ended.doTx(t.Context(), key, "threshold", never(t))
		require.ErrorIs(t, err, finalize.ErrTxEnded)
		require.NoError(t, write(t.Context(), another, "another"))
		require.NoError(t, another.Commit(t.Context()))
		require.Equal(t, 2, w.writes("another"))
		w.requireOpen("b1")
	}, conns(1))
}

// A caller who waited in vain keeps its transaction: the server was asked to cancel the statement, and said that it did.
func TestDoTxBusyLeavesTheTransactionUsable(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		key := w.open("b")
		holder, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		_, err = holder.doTx(t.Context(), key, "holder", complete("b"))
		require.NoError(t, err)

		tx, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		require.NoError(t, write(t.Context(), tx, "mine"))
		for range 10 {
			_, err = tx.doTx(t.Context(), key, "waiter", never(t))
			require.ErrorIs(t, err, finalize.ErrBusy)
			_, err = tx.Exec(t.Context(), "SELECT pg_sleep(0.02)")
			require.NoError(t, err, "no request to cancel came late")
		}
		require.NoError(t, tx.Commit(t.Context()))
		require.Equal(t, 1, w.writes("mine"))
		require.NoError(t, holder.Rollback(t.Context()))
	}, on("pgx"), guardedBy("status", "ledger", "all"), configured(func(c *finalize.Config) { c.ClaimTimeout = 500 * time.Millisecond }))
}
