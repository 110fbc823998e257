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
	"github.com/endstate-go/endstate/outbox"
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
		other := connect(t, w.database, w.guard, w.dsn, w.schema, configured(func(c *finalize.Config) { c.ClaimTimeout = 2 * time.Second }))
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

func TestSeveralEventsAreAllOrNone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for _, n := range []int{0, 1, 2, 4, 5, 12, 1001} {
			if n > 1000 && w.guard != "all" {
				continue // once for each database: it takes seconds under the race detector
			}
			id := fmt.Sprintf("b%d", n)
			var events []outbox.Event
			var types []string
			for i := range n {
				types = append(types, fmt.Sprintf("event.%d", i))
				events = append(events, outbox.Event{Type: types[i], Payload: fmt.Appendf(nil, "%d", i), Headers: map[string]string{"n": "é"}})
			}
			key := w.open(id, id+"-settled")
			r, err := w.do(t.Context(), key, "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
				return finalize.Outcome{State: "COMPLETE_STABLE", Events: events}, nil
			})
			require.NoError(t, err)
			require.True(t, r.Won)
			w.requireFinal(id, "COMPLETE_STABLE", types...)

			r, err = w.settle(t.Context(), guard.Text(id+"-settled"), "sweep", finalize.Outcome{State: "COMPLETE_STABLE", Events: events})
			require.NoError(t, err)
			require.True(t, r.Won)
			w.requireFinal(id+"-settled", "COMPLETE_STABLE", types...)

			// Taken by one of the events' keys, none goes in and the state isn't set.
			if n > 1 {
				key := w.open(id + "-taken")
				taken := append([]outbox.Event{}, events...)
				taken[n-1].DedupKey = "batch/t:" + id + "#event.0"
				_, err = w.settle(t.Context(), key, "sweep", finalize.Outcome{State: "COMPLETE_STABLE", Events: taken})
				require.ErrorIs(t, err, finalize.ErrEventConflict)
				_, err = w.do(t.Context(), key, "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
					return finalize.Outcome{State: "COMPLETE_STABLE", Events: taken}, write(ctx, tx, id+"-taken")
				})
				require.ErrorIs(t, err, finalize.ErrEventConflict)
				w.requireOpen(id + "-taken")
			}
		}
	}, tampered()) // one outcome has no events
}

func TestEventsAreWrittenAsGiven(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		id := uuid.Must(uuid.NewV7())
		at := time.Date(2025, 11, 15, 18, 59, 43, 123456000, time.UTC)
		given := outbox.Event{
			ID: id, AggregateType: "lifecycle", AggregateID: "x/1", Type: "assessment.completed", Payload: []byte{0, 0xff, '"'}, ContentType: "application/octet-stream",
			Headers: map[string]string{"traceparent": "00-é\"\\"}, OccurredAt: at, DedupKey: "of its own", SchemaVersion: 3,
		}
		for i, settle := range []bool{true, false} {
			given.DedupKey, given.ID = fmt.Sprintf("of its own %d", i), uuid.Must(uuid.NewV7())
			key := w.open(fmt.Sprintf("b%d", i))
			out := finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{given}}
			var err error
			if settle {
				_, err = w.settle(t.Context(), key, "sweep", out)
			} else {
				_, err = w.do(t.Context(), key, "sweep", func(context.Context, endstate.Tx) (finalize.Outcome, error) { return out, nil })
			}
			require.NoError(t, err)
			var got outbox.Event
			var headers, occurred string
			query := `SELECT CAST(id AS text), aggregate_type, aggregate_id, type, payload, content_type, CAST(headers AS text), CAST(occurred_at AS text), dedup_key, schema_version FROM endstate_outbox WHERE dedup_key = $1`
			require.NoError(t, w.db.QueryRowContext(t.Context(), query, given.DedupKey).Scan(
				&got.ID, &got.AggregateType, &got.AggregateID, &got.Type, &got.Payload, &got.ContentType, &headers, &occurred, &got.DedupKey, &got.SchemaVersion))
			require.JSONEq(t, `{"traceparent":"00-é\"\\"}`, headers)
			require.Contains(t, occurred, ":43.123456")
			got.Headers, got.OccurredAt = given.Headers, given.OccurredAt
			require.Equal(t, given, got)
		}
	}, tampered())
}

func TestEventConflictNamesTheEarlierEventAndRollsAllBack(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		earlier := uuid.Must(uuid.NewV7())
		w.putElsewhere(outbox.Event{ID: earlier, DedupKey: "batch/t:b1#batch.completed"})

		byKey := completed()
		byID := finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{{Type: "first"}, {Type: "second", ID: earlier}}}
		byID.Events[0].Payload, byID.Events[1].Payload = []byte("1"), []byte("2")
		for name, out := range map[string]finalize.Outcome{"batch.completed": byKey, "second": byID} {
			check := func(r finalize.Receipt, err error) {
				t.Helper()
				require.ErrorIs(t, err, finalize.ErrEventConflict)
				var conflict *finalize.EventConflictError
				require.ErrorAs(t, err, &conflict)
				require.Equal(t, name, conflict.Type)
				require.Equal(t, earlier, conflict.HeldBy)
				require.Equal(t, "batch b1", conflict.Ref.String())
				require.Contains(t, []string{"batch/t:b1#batch.completed", "batch/t:b1#second"}, conflict.DedupKey)
				require.ErrorContains(t, err, earlier.String())
				require.Zero(t, r)
			}
			callback := func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) { return out, write(ctx, tx, "b1") }
			check(w.do(t.Context(), key, "threshold", callback))
			w.requireOpen("b1")
			check(w.settle(t.Context(), key, "threshold", out))
			w.requireOpen("b1")

			tx, err := w.begin(t.Context(), "")
			require.NoError(t, err)
			require.NoError(t, write(t.Context(), tx, "caller "+name))
			check(tx.doTx(t.Context(), key, "threshold", callback))
			require.NoError(t, tx.Commit(t.Context()), "the caller's transaction stays usable")
			w.requireOpen("b1")
			require.Equal(t, 1, w.writes("caller "+name))
		}
		require.Equal(t, [4]int{0, 0, 0, 6}, w.trace.counts())

		r, err := w.do(t.Context(), key, "repair", func(context.Context, endstate.Tx) (finalize.Outcome, error) {
			return finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{{Type: "batch.completed", Payload: []byte("1"), DedupKey: "another"}}}, nil
		})
		require.NoError(t, err)
		require.True(t, r.Won)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
	})
}

// putElsewhere writes an event as if by other code.
func (w *world) putElsewhere(e outbox.Event) {
	w.t.Helper()
	e.AggregateType, e.AggregateID, e.Type, e.Payload = "elsewhere", "1", "elsewhere", []byte("1")
	tx, err := w.db.BeginTx(w.t.Context(), nil)
	require.NoError(w.t, err)
	wrap := endstate.PostgresTx
	if w.sqlite() {
		wrap = endstate.SQLiteTx
	}
	results, err := outbox.Put(w.t.Context(), wrap(tx), e)
	require.NoError(w.t, err)
	require.True(w.t, results[0].Inserted)
	require.NoError(w.t, tx.Commit())
}

func TestDefaultDedupKeyIsAggregateKeyAndType(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.exec("INSERT INTO batches (id, status) VALUES ('50% #1/a', 'PENDING')")
		_, err := w.do(t.Context(), guard.Text("50% #1/a"), "threshold", complete("50% #1/a"))
		require.NoError(t, err)
		require.Equal(t, []string{"batch/t:50%25 %231%2Fa#batch.completed"}, w.text("SELECT dedup_key FROM endstate_outbox"))

		// Two events of one type need keys of their own.
		key := w.open("b1")
		twice := []outbox.Event{{Type: "charged", Payload: []byte("1")}, {Type: "charged", Payload: []byte("2")}}
		_, err = w.settle(t.Context(), key, "threshold", finalize.Outcome{State: "COMPLETE_STABLE", Events: twice})
		require.ErrorIs(t, err, outbox.ErrDuplicate)
		w.requireOpen("b1")
		twice[1].DedupKey = "second charge"
		r, err := w.settle(t.Context(), key, "threshold", finalize.Outcome{State: "COMPLETE_STABLE", Events: twice})
		require.NoError(t, err)
		require.True(t, r.Won)
		w.requireFinal("b1", "COMPLETE_STABLE", "charged", "charged")
	}, tampered()) // the check on all rows doesn't know escaped keys
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

// F29: what makes a repeat a loser is apart from the outbox.
func TestARepeatLosesAfterTheEventsAreGone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for _, id := range []string{"first", "second"} {
			key := w.open(id)
			won, err := w.do(t.Context(), key, "threshold", complete(id))
			require.NoError(t, err)
			require.True(t, won.Won)
			w.exec("DELETE FROM endstate_outbox")
			require.Zero(t, w.count("SELECT count(*) FROM endstate_outbox"))
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
			requireSameReceipt(t, w, won, lost)
			require.NoError(t, tx.Commit(t.Context()))
			require.Zero(t, w.count("SELECT count(*) FROM endstate_outbox"))
		}
	}, tampered())
}

// F6: where the transaction is ours, it runs again.
func TestDoRetriesWhatTheDatabaseBreaksOff(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for _, code := range []string{"40001", "40P01"} {
			id := "b" + code
			runs := 0
			r, err := w.do(t.Context(), w.open(id), "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
				if err := write(ctx, tx, id); err != nil {
					return finalize.Outcome{}, err
				}
				if runs++; runs < 3 {
					_, err := tx.Exec(ctx, "DO $$ BEGIN RAISE EXCEPTION 'broken off' USING ERRCODE = '"+code+"'; END $$")
					return finalize.Outcome{}, fmt.Errorf("rank: %w", err)
				}
				return completed(), nil
			})
			require.NoError(t, err)
			require.True(t, r.Won)
			require.Equal(t, 3, runs)
			require.Equal(t, 1, w.writes(id), "what the broken-off transactions wrote is gone")
			w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
		}
		require.Equal(t, 4, w.trace.retries())
		require.Equal(t, []int{1, 2}, []int{w.trace.retry[0].Attempt, w.trace.retry[1].Attempt})
		require.Equal(t, 3, w.trace.won[0].Attempt)
	}, on("pgx", "sql"))
}

// F6: but not forever.
func TestDoGivesUpAfterMaxAttempts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		runs := 0
		_, err := w.do(t.Context(), w.open("b1"), "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			runs++
			_, err := tx.Exec(ctx, "DO $$ BEGIN RAISE EXCEPTION 'broken off' USING ERRCODE = '40001'; END $$")
			return finalize.Outcome{}, errors.Join(err, write(ctx, tx, "b1"))
		})
		require.ErrorContains(t, err, "gave up after 3 attempts")
		require.Equal(t, "40001", sqlState(err))
		require.Equal(t, 3, runs)
		require.Equal(t, 2, w.trace.retries())
		require.Equal(t, [4]int{0, 0, 0, 1}, w.trace.counts())
		w.requireOpen("b1")
	}, on("pgx", "sql"), configured(func(c *finalize.Config) { c.MaxAttempts = 3 }))
}

// On SQLite a busy database is what breaks a transaction off.
func TestDoRetriesABusySQLite(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1", "b2")
		for _, call := range []func() (finalize.Receipt, error){
			func() (finalize.Receipt, error) { return w.do(t.Context(), key, "threshold", complete("b1")) },
			func() (finalize.Receipt, error) {
				return w.settle(t.Context(), guard.Text("b2"), "threshold", completed())
			},
		} {
			_, err := w.sqlDB.ExecContext(t.Context(), "PRAGMA busy_timeout = 0")
			require.NoError(t, err)
			conn, err := w.db.Conn(t.Context())
			require.NoError(t, err)
			_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
			require.NoError(t, err)
			before := w.trace.retries()
			w.trace.onRetry = func() {
				if w.trace.retries() == before+2 {
					_, err := conn.ExecContext(t.Context(), "ROLLBACK")
					require.NoError(t, err)
				}
			}
			r, err := call()
			require.NoError(t, err)
			require.True(t, r.Won)
			require.Equal(t, before+2, w.trace.retries())
			require.NoError(t, conn.Close())
		}
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
		w.requireFinal("b2", "COMPLETE_STABLE", "batch.completed")
	}, on("sqlite"), conns(1))
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
