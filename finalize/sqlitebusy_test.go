package finalize_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// impatient is the data source name of a connection that doesn't wait for another's lock: SQLite says SQLITE_BUSY at once.
func impatient(t *testing.T, dsn string) string {
	t.Helper()
	require.Contains(t, dsn, "busy_timeout(10000)")
	return strings.Replace(dsn, "busy_timeout(10000)", "busy_timeout(0)", 1)
}

// insist calls for each of the keys, in an order of its own, until it gets a receipt, and says in the end how often it found
// the database busy.
func (c caller) insist(t *testing.T) {
	w := connect(t, c.Database, c.Guard, c.DSN, c.Schema, func(s *setup) { s.shared = true })
	refused := 0
	for _, n := range rand.Perm(len(c.IDs)) {
		for said := (called{Key: c.IDs[n]}); ; refused++ {
			var err error
			if said.Receipt, err = w.do(t.Context(), guard.Text(said.Key), callersTrigger, complete(said.Key)); err != nil {
				if strings.Contains(err.Error(), "SQLITE_BUSY") && !strings.Contains(err.Error(), finalize.ErrOutcomeUnknown.Error()) {
					continue
				}
				said.Err = err.Error()
			}
			say(t, said)
			break
		}
	}
	fmt.Println("refused", refused+w.trace.retries())
}

// F27: four processes on a SQLite file that don't wait for its lock, some of which are killed and started again.
func TestSQLiteBusyProcesses(t *testing.T) {
	t.Parallel()
	for _, journal := range []string{"wal", "delete"} {
		t.Run(journal, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				keys := ids(60)
				w.open(keys...)
				c := caller{Database: w.database, Guard: w.guard, DSN: impatient(t, w.dsn), Call: "insist", IDs: keys}
				var mu sync.Mutex
				var all []called
				refused, killed := 0, 0
				heard := func(line string) {
					mu.Lock()
					defer mu.Unlock()
					if text, ok := strings.CutPrefix(line, "returned "); ok {
						all = append(all, parseCalled(t, text))
					} else if text, ok := strings.CutPrefix(line, "refused "); ok {
						n, err := strconv.Atoi(text)
						require.NoError(t, err)
						refused += n
					}
				}
				var group sync.WaitGroup
				for n := range 4 {
					process := startProcess(t, c)
					group.Go(func() {
						for range n { // the first one stays, the last one is killed three times
							for _, text := range process.await(5, "returned ") {
								heard("returned " + text)
							}
							for _, line := range process.kill() {
								heard(line)
							}
							process = startProcess(t, c)
							mu.Lock()
							killed++
							mu.Unlock()
						}
						for line := range process.lines {
							heard(line)
						}
					})
				}
				group.Wait()
				require.Equal(t, 6, killed)
				require.NotZero(t, refused, "nobody found the database busy")
				requireAtMostOneWinnerEach(t, w, keys, all)
			}, on("sqlite"), guardedBy("status", "all", "own"), func(s *setup) { s.journal = journal })
		})
	}
}

// requireAtMostOneWinnerEach is requireOneWinnerEach where a winner may have been killed before it could say so.
func requireAtMostOneWinnerEach(t *testing.T, w *world, ids []string, all []called) {
	t.Helper()
	winners := map[string]bool{}
	receipts := map[string]finalize.Receipt{}
	for _, c := range all {
		require.Empty(t, c.Err)
		require.False(t, c.Receipt.Won && winners[c.Key], "I3: two winners of %s", c.Key)
		winners[c.Key] = winners[c.Key] || c.Receipt.Won
		c.Receipt.Won = false
		if first, told := receipts[c.Key]; told {
			require.Equal(t, first, c.Receipt, "I4")
		}
		receipts[c.Key] = c.Receipt
	}
	for _, id := range ids {
		require.Contains(t, receipts, id)
		w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
		require.Equal(t, 1, w.writes(id), "the callback's write is there once")
	}
	w.requireInvariants()
}

// F27: SQLITE_LOCKED, which a statement gets from another one of its connection, is a reason to try again as well.
func TestSQLiteLockedTable(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		runs := 0
		r, err := w.do(t.Context(), w.open("b1", "b2"), "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			if runs++; runs == 1 {
				rows, err := tx.Query(ctx, "SELECT id FROM batches")
				require.NoError(t, err)
				defer rows.Close()
				require.True(t, rows.Next())
				_, err = tx.Exec(ctx, "DROP TABLE writes")
				require.ErrorContains(t, err, "locked")
				return finalize.Outcome{}, err
			}
			return complete("b1")(ctx, tx)
		})
		require.NoError(t, err)
		require.True(t, r.Won)
		require.Equal(t, 2, runs)
		require.Equal(t, 1, w.trace.retries())
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
		require.Equal(t, 1, w.writes("b1"))
	}, on("sqlite"))
}
