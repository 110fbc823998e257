package finalize_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/outbox"
)

func items(ids []string, out finalize.Outcome) []finalize.Item {
	list := make([]finalize.Item, len(ids))
	for i, id := range ids {
		list[i] = finalize.Item{Key: guard.Text(id), Outcome: out}
	}
	return list
}

// Every item has its own result, in the items' order, whatever the others are like.
func TestSettleManyTellsOfEachItem(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		n := 120
		if w.pool != nil && w.guard != "own" {
			n = 2300
		}
		keys := ids(n)
		slices.Reverse(keys)
		w.open(keys...)
		_, err := w.another().settle(t.Context(), guard.Text(keys[5]), "earlier", completed())
		require.NoError(t, err)
		_, err = w.another().settle(t.Context(), guard.Text(keys[50]), "earlier", quietly())
		require.NoError(t, err)
		w.putElsewhere(outbox.Event{DedupKey: "batch/t:" + keys[70] + "#batch.completed"})
		list := items(keys, completed())
		list[10].Outcome = quietly()
		list[20].Outcome.State = ""
		list[30].Outcome.Events = []outbox.Event{{Type: "bad", Payload: []byte("{")}}
		list[40].Key = guard.Text("absent")
		list[41].Key = guard.Key{}
		list = append(list, list[7], finalize.Item{Key: list[8].Key, Outcome: quietly()})

		results, err := w.many(t.Context(), "sweep", list)
		require.Len(t, results, len(list))
		failed := 0
		for i, r := range results {
			id := list[i].Key.String()
			if r.Err != nil {
				failed++
				require.Zero(t, r.Receipt)
			}
			switch i {
			case 5:
				require.NoError(t, r.Err)
				require.False(t, r.Receipt.Won)
				require.False(t, r.Receipt.Differs)
				if w.hasLedger() {
					require.Equal(t, finalize.Trigger("earlier"), r.Receipt.Trigger)
				}
			case 50, len(keys) + 1:
				require.NoError(t, r.Err)
				require.False(t, r.Receipt.Won)
				require.True(t, r.Receipt.Differs)
			case len(keys):
				require.NoError(t, r.Err)
				require.False(t, r.Receipt.Won, "the key's second item")
				require.False(t, r.Receipt.Differs)
			case 20:
				require.ErrorIs(t, r.Err, guard.ErrNotTerminal)
			case 30:
				require.ErrorIs(t, r.Err, outbox.ErrInvalidEvent)
			case 40:
				if w.hasStatus() {
					require.ErrorIs(t, r.Err, guard.ErrNotFound)
				} else {
					require.True(t, r.Receipt.Won)
				}
			case 41:
				require.ErrorIs(t, r.Err, guard.ErrInvalidKey)
			case 70:
				var conflict *finalize.EventConflictError
				require.ErrorAs(t, r.Err, &conflict)
				require.Equal(t, id, conflict.Ref.Key.String())
			default:
				require.NoError(t, r.Err)
				require.True(t, r.Receipt.Won, "%d", i)
				require.Equal(t, list[i].Outcome.State, r.Receipt.State)
				if w.hasLedger() {
					require.Equal(t, finalize.Trigger("sweep"), r.Receipt.Trigger)
					require.NotZero(t, r.Receipt.At)
				}
			}
		}
		require.ErrorContains(t, err, fmt.Sprintf("%d of %d items failed; the first is ", failed, len(list)))
		require.ErrorIs(t, err, guard.ErrNotTerminal)
		w.requireFinal(keys[10], "ERROR_QUIET")
		w.requireFinal(keys[11], "COMPLETE_STABLE", "batch.completed")
		counts := w.trace.counts()
		require.Equal(t, len(list)-failed-4+2, counts[0], "with the two earlier ones")
		require.Equal(t, 4, counts[1])
		require.Len(t, w.events(keys[70]), 0)
		require.Equal(t, n-7, w.count("SELECT count(*) FROM endstate_outbox WHERE type = 'batch.completed' AND aggregate_id LIKE 'batch-%'"))
	}, tampered()) // the check on all rows doesn't know the event that was put elsewhere
}

// A thousand items are one statement.
func TestSettleManyIsFewStatements(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(2500)
		w.open(keys...)
		before := w.pool.Stat().AcquireCount()
		_, err := w.many(t.Context(), "sweep", items(keys, completed()))
		require.NoError(t, err)
		require.EqualValues(t, 3, w.pool.Stat().AcquireCount()-before)
		results, err := w.many(t.Context(), "sweep again", items(keys, completed()))
		require.NoError(t, err)
		for _, r := range results {
			require.False(t, r.Receipt.Won)
		}
		require.EqualValues(t, 3, w.pool.Stat().AcquireCount()-before, "the rest is remembered")

		big := ids(2600)[2500:]
		w.open(big...)
		out := completed()
		out.Events[0].Payload = []byte(fmt.Sprintf(`"%0100000d"`, 0))
		before = w.pool.Stat().AcquireCount()
		_, err = w.many(t.Context(), "sweep", items(big, out))
		require.NoError(t, err)
		require.EqualValues(t, 3, w.pool.Stat().AcquireCount()-before, "10 MB of payloads")
	}, on("pgx"), guardedBy("status", "ledger", "all"), cached())
}

// What another transaction holds is waited for, after everything else has been settled.
func TestSettleManyDoesNotWaitForOne(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(200)
		w.open(keys...)
		done := make(chan error, 1)
		w.held(keys[3], func() {
			go func() {
				results, err := w.many(t.Context(), "sweep", items(keys, completed()))
				for _, r := range results {
					if !r.Receipt.Won {
						t.Error("not won")
					}
				}
				done <- err
			}()
			w.eventually("SELECT count(*) = $1 FROM endstate_outbox", len(keys)-1)
			require.Empty(t, done)
		})
		require.NoError(t, <-done)
		w.requireFinal(keys[3], "COMPLETE_STABLE", "batch.completed")
	}, on("pgx", "sql"))
}

// Sweeps of several processes over the same keys, in any order: no deadlock, one winner each.
func TestRaceOfSweeps(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(1500)
		if w.pool == nil || w.guard == "own" {
			keys = ids(100)
		}
		w.open(keys...)
		var mu sync.Mutex
		var all []called
		var group sync.WaitGroup
		for i := range 6 {
			group.Go(func() {
				mine := slices.Clone(keys)
				if i%2 == 1 {
					slices.Reverse(mine)
				}
				results, err := w.another().many(t.Context(), finalize.Trigger(fmt.Sprint("sweep ", i)), items(mine, completed()))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				for k, r := range results {
					all = append(all, called{Key: mine[k], Receipt: r.Receipt})
				}
			})
		}
		group.Wait()
		requireOneWinnerEach(t, w, keys, all)
	})
}

// F2 for a bulk.
func TestABulksCommitGotNoAnswer(t *testing.T) {
	for _, do := range []pgfault.Action{pgfault.CutBefore, pgfault.CutAfterReply} {
		for _, g := range []string{"status", "ledger", "all"} {
			t.Run(do.String()+"/"+g, func(t *testing.T) {
				t.Parallel()
				url := dbtest.Postgres(t)
				proxy := pgfault.New(t, url)
				w := newWorld(t, "pgx", g, url)
				proxied := connect(t, "pgx", g, proxy.URL(), w.schema, configured(func(c *finalize.Config) { c.Cache.Off = false }))
				keys := ids(30)
				w.open(keys...)
				fault := proxy.Arm(&pgfault.Fault{SQL: "WITH endstate_patience", Do: do})
				results, err := proxied.many(t.Context(), "sweep", items(keys, completed()))
				fault.RequireFired(t)
				require.NoError(t, err)
				for i, id := range keys {
					require.True(t, results[i].Receipt.Won)
					lost, err := w.settle(t.Context(), guard.Text(id), "loser", completed())
					require.NoError(t, err)
					requireSameReceipt(t, w, results[i].Receipt, lost)
				}
				require.Len(t, proxied.trace.won, len(keys))
				require.Len(t, proxied.trace.resolving, len(keys))
				again, err := proxied.settle(t.Context(), guard.Text(keys[0]), "loser", completed())
				require.NoError(t, err)
				requireSameReceipt(t, w, results[0].Receipt, again)
				require.Zero(t, proxied.trace.lost[0].Attempt, "what was found out is remembered")
			})
		}
	}
}

// F2 for a bulk, while another call of the process is about to find out that the aggregate is final: by this very bulk, so
// that its word is no answer.
func TestABulksCommitGotNoAnswerAndAnotherCallFindsItFinal(t *testing.T) {
	for _, g := range []string{"status", "ledger", "all"} {
		t.Run(g, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			proxy := pgfault.New(t, url)
			w := newWorld(t, "pgx", g, url)
			proxied := connect(t, "pgx", g, proxy.URL(), w.schema)
			keys := ids(2)
			w.open(keys...)
			held := proxy.Arm(&pgfault.Fault{SQL: "begin", Do: pgfault.Hold})
			other := make(chan called)
			go func() {
				r, err := proxied.do(t.Context(), guard.Text(keys[0]), "other", never(t))
				other <- called{Receipt: r, Err: fmt.Sprint(err)}
			}()
			held.RequireFired(t)
			fault := proxy.Arm(&pgfault.Fault{SQL: "WITH endstate_patience", Do: pgfault.CutAfterReply})
			var results []finalize.Result
			done := make(chan error, 1)
			go func() {
				var err error
				results, err = proxied.many(t.Context(), "sweep", items(keys, completed()))
				done <- err
			}()
			fault.RequireAnswered(t)
			require.Eventually(t, func() bool { return len(done) > 0 || proxied.queued(guard.Text(keys[0])) > 0 }, long, time.Millisecond)
			held.Release()
			require.NoError(t, <-done)
			lost := <-other
			require.Equal(t, "<nil>", lost.Err)
			requireSameReceipt(t, w, results[0].Receipt, lost.Receipt)
			require.True(t, results[1].Receipt.Won)
		})
	}
}

func TestSettleManyOfNothingAndCancelled(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		results, err := w.many(t.Context(), "sweep", nil)
		require.NoError(t, err)
		require.Empty(t, results)

		keys := ids(30)
		w.open(keys...)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errShutdown)
		results, err = w.many(ctx, "sweep", items(keys, completed()))
		require.ErrorIs(t, err, errShutdown)
		for i, r := range results {
			require.ErrorIs(t, r.Err, errShutdown)
			w.requireOpen(keys[i])
		}
	})
}

// A panic of a guard, or a hook, reaches the caller, and nothing is held.
func TestSettleManyPanics(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(30)
		w.open(keys...)
		require.PanicsWithValue(t, "boom", func() { _, _ = w.many(t.Context(), "sweep", items(keys, completed())) })
	}, guardedBy("all", "own"), configured(func(c *finalize.Config) {
		c.Trace.Won = func(context.Context, finalize.Call, finalize.Receipt) { panic("boom") }
	}))
}

// A schema that lacks something is said for each item.
func TestSettleManyOnAnIncompleteSchema(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(20)
		w.open(keys...)
		w.exec("ALTER TABLE endstate_outbox RENAME COLUMN payload TO body")
		results, err := w.many(t.Context(), "sweep", items(keys, completed()))
		require.ErrorIs(t, err, outbox.ErrSchema)
		for _, r := range results {
			require.ErrorIs(t, r.Err, outbox.ErrSchema)
		}
	}, on("pgx"), guardedBy("status"), tampered())
}
