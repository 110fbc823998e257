package finalize_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// F9: many goroutines on one key, with hardly any connections. Nobody needs a second connection to finish, so that none
// waits forever, and other keys go on.
func TestStormOnASmallPool(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		conns, goroutines int
		guards            []string
		apart             bool // each with a finalizer of its own, as so many processes
	}{{1, 100, guards, false}, {1, 100, guards, true}, {4, 1000, []string{"all"}, false}, {4, 1000, []string{"all"}, true}} {
		t.Run(fmt.Sprintf("%d goroutines on %d connections, apart=%v", c.goroutines, c.conns, c.apart), func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				key := w.open("storm", "other")
				receipts := make([]finalize.Receipt, c.goroutines)
				var wg sync.WaitGroup
				for i := range c.goroutines {
					wg.Go(func() {
						var err error
						trigger := finalize.Trigger(fmt.Sprintf("runaway %d", i))
						d := w.door
						if c.apart {
							d = w.another()
						}
						if i%3 == 0 {
							receipts[i], err = d.settle(t.Context(), key, trigger, completed())
						} else {
							receipts[i], err = d.do(t.Context(), key, trigger, complete("storm"))
						}
						if err != nil {
							t.Error(err)
						}
					})
				}
				ctx, cancel := context.WithTimeout(t.Context(), long)
				defer cancel()
				r, err := w.do(ctx, guard.Text("other"), "threshold", complete("other"))
				require.NoError(t, err)
				require.True(t, r.Won)
				wg.Wait()
				requireOneWinner(t, w, receipts)
				w.requireFinal("storm", "COMPLETE_STABLE", "batch.completed")
				w.requireFinal("other", "COMPLETE_STABLE", "batch.completed")
			}, conns(int32(c.conns)), guardedBy(c.guards...), configured(func(c *finalize.Config) { c.ClaimTimeout = long }))
		})
	}
}

// F34: finding the earlier event's name, too, needs no second connection.
func TestConflictsOnAPoolOfOne(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		earlier := uuid.Must(uuid.NewV7())
		w.putElsewhere(outbox.Event{ID: earlier, DedupKey: "batch/t:b1#batch.completed"})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				var err error
				if d := w.another(); i%2 == 0 {
					_, err = d.do(t.Context(), key, "threshold", complete("b1"))
				} else {
					_, err = d.settle(t.Context(), key, "threshold", completed())
				}
				var conflict *finalize.EventConflictError
				if !errors.As(err, &conflict) || conflict.HeldBy != earlier {
					t.Errorf("expected a conflict with %v, got %v", earlier, err)
				}
			})
		}
		wg.Wait()
		w.requireOpen("b1")
	}, conns(1), configured(func(c *finalize.Config) { c.ClaimTimeout = long })) // twenty in line on a busy machine
}

// The earlier event may be somebody's who hasn't committed yet: then it is waited for.
func TestConflictWithATransactionInFlight(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for _, commits := range []bool{true, false} {
			id := fmt.Sprintf("commits=%v", commits)
			key := w.open(id)
			other, err := w.db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			event := outbox.Event{AggregateType: "elsewhere", AggregateID: "1", Type: "elsewhere", Payload: []byte("1"), DedupKey: "batch/t:" + id + "#batch.completed"}
			results, err := outbox.Put(t.Context(), endstate.PostgresTx(other), event)
			require.NoError(t, err)
			done := make(chan error)
			go func() {
				_, err := w.settle(t.Context(), key, "threshold", completed())
				done <- err
			}()
			w.waiting(1)
			if commits {
				require.NoError(t, other.Commit())
				var conflict *finalize.EventConflictError
				require.ErrorAs(t, <-done, &conflict)
				require.Equal(t, results[0].ID, conflict.HeldBy)
				w.requireOpen(id)
			} else {
				require.NoError(t, other.Rollback())
				require.NoError(t, <-done)
				w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
			}
		}
	}, on("pgx", "sql"), tampered()) // the check on all rows doesn't know escaped keys
}

// F30: a COMMIT that waits for a standby and is cancelled has committed, as the server says by a mere warning.
func TestCancelledWaitForAStandby(t *testing.T) {
	t.Parallel()
	server := dbtest.StartPostgres(t)
	for _, kind := range []string{"pgx", "sql"} {
		if !dbtest.Serves(kind) {
			continue
		}
		for _, g := range []string{"status", "all"} {
			t.Run(kind+"/"+g, func(t *testing.T) {
				w := newWorld(t, kind, g, dbtest.Database(t, server.URL()), param("synchronous_commit", "on"))
				for name, call := range map[string]func(ctx context.Context, id string) (finalize.Receipt, error){
					"do": func(ctx context.Context, id string) (finalize.Receipt, error) {
						return w.do(ctx, guard.Text(id), "threshold", complete(id))
					},
					"settle": func(ctx context.Context, id string) (finalize.Receipt, error) {
						return w.settle(ctx, guard.Text(id), "threshold", completed())
					},
				} {
					w.open(name)
					standby(w, "nobody")
					ctx, cancel := context.WithCancel(t.Context())
					var r finalize.Receipt
					done := make(chan error)
					go func() {
						var err error
						r, err = call(ctx, name)
						done <- err
					}()
					w.eventually("SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = $1 AND wait_event = 'SyncRep'", w.app)
					cancel()
					err := <-done
					standby(w, "")
					if !dbtest.Cancels() { // the server knew nothing of it
						w.requireNothingHeld()
						w.requireCommittedUnknown(name, err)
						continue
					}
					require.NoError(t, err)
					require.True(t, r.Won)
					w.requireFinal(name, "COMPLETE_STABLE", "batch.completed")
				}
			})
		}
	}
}

// standby makes commits wait for a standby of that name, or for none.
func standby(w *world, name string) {
	w.exec("ALTER SYSTEM SET synchronous_standby_names = '" + name + "'")
	w.exec("SELECT pg_reload_conf()")
	w.eventually("SELECT setting = $1 FROM pg_settings WHERE name = 'synchronous_standby_names'", name)
}
