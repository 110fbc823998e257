package finalize_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// Whatever the connection's default isolation level, Do and Settle decide by what is committed.
func TestDefaultIsolationOfTheConnection(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				for i, call := range []func(key guard.Key, trigger finalize.Trigger) (finalize.Receipt, error){
					func(key guard.Key, trigger finalize.Trigger) (finalize.Receipt, error) {
						return w.another().do(t.Context(), key, trigger, func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
							var level string
							require.NoError(t, tx.QueryRow(ctx, "SELECT current_setting('transaction_isolation')").Scan(&level))
							require.Equal(t, "read committed", level)
							return completed(), nil
						})
					},
					func(key guard.Key, trigger finalize.Trigger) (finalize.Receipt, error) {
						return w.another().settle(t.Context(), key, trigger, completed())
					},
				} {
					id := fmt.Sprintf("b%d", i)
					key := w.open(id)
					var mu sync.Mutex
					var wg sync.WaitGroup
					var receipts []finalize.Receipt
					for n := range 20 {
						wg.Go(func() {
							r, err := call(key, finalize.Trigger(fmt.Sprintf("racer %d", n)))
							if err != nil {
								t.Error(err)
							}
							mu.Lock()
							defer mu.Unlock()
							receipts = append(receipts, r)
						})
					}
					wg.Wait()
					requireOneWinner(t, w, receipts)
					w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
				}
			}, on("pgx", "sql"), param("default_transaction_isolation", level))
		})
	}
}

// requireOneWinner checks I3 and I4 on the receipts of all calls for one key.
func requireOneWinner(t *testing.T, w *world, receipts []finalize.Receipt) {
	t.Helper()
	var winner *finalize.Receipt
	for i := range receipts {
		if receipts[i].Won {
			require.Nil(t, winner, "I3: two winners")
			winner = &receipts[i]
		}
	}
	require.NotNil(t, winner, "I3: no winner")
	for _, r := range receipts {
		if !r.Won {
			requireSameReceipt(t, w, *winner, r)
		}
	}
}
