package finalize_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

var errShutdown = errors.New("the service shuts down")

// F7: a context that has ended already.
func TestCancelledBeforeTheCall(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := w.do(ctx, key, "threshold", never(t))
		require.ErrorIs(t, err, context.Canceled)
		_, err = w.settle(ctx, key, "threshold", completed())
		require.ErrorIs(t, err, context.Canceled)
		callers, err := w.begin(t.Context(), "")
		require.NoError(t, err)
		_, err = callers.doTx(ctx, key, "threshold", never(t))
		require.ErrorIs(t, err, context.Canceled)
		_ = callers.Rollback(t.Context())
		w.requireOpen("b1")
		w.requireNothingHeld()
	})
}

// held has somebody else hold a batch while f runs.
func (w *world) held(id string, f func()) {
	w.t.Helper()
	release, holding := make(chan struct{}), make(chan error)
	go func() {
		_, err := w.another().do(w.t.Context(), guard.Text(id), "holder", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			holding <- nil
			<-release
			return finalize.Outcome{}, finalize.ErrNotReady
		})
		if !errors.Is(err, finalize.ErrNotReady) {
			w.t.Error(err)
		}
		holding <- err
	}()
	require.NoError(w.t, <-holding)
	defer func() { <-holding }()
	defer close(release)
	f()
}

// F7: while waiting for another call. The result is the cause, and where the driver cancels, it comes at once, and nothing goes on
// waiting in the database.
func TestCancelledWhileWaiting(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		w.held("b1", func() {
			calls := []func(ctx context.Context) error{
				func(ctx context.Context) error { _, err := w.do(ctx, key, "waiter", never(t)); return err },
				func(ctx context.Context) error { _, err := w.settle(ctx, key, "waiter", completed()); return err },
				func(ctx context.Context) error {
					callers, err := w.begin(t.Context(), "")
					require.NoError(t, err)
					_, err = callers.doTx(ctx, key, "waiter", never(t))
					_ = callers.Rollback(t.Context())
					return err
				},
			}
			for _, call := range calls {
				ctx, cancel := context.WithCancelCause(t.Context())
				done := make(chan error)
				go func() { done <- call(ctx) }()
				if !w.sqlite() { // whose waiters can't be seen
					w.waiting(1)
				}
				cancel(errShutdown)
				err := <-done
				require.ErrorIs(t, err, errShutdown)
				require.NotErrorIs(t, err, finalize.ErrBusy)
				require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
				if !w.sqlite() && dbtest.Cancels() {
					w.eventually("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'", w.app)
				}
			}
			// Last of all: where the time is up before the server has begun with the statement, its cancellation comes too early, and a
			// session waits on for as long as the holder works, and is seen.
			for _, call := range calls {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				require.ErrorIs(t, call(ctx), context.DeadlineExceeded)
				cancel()
			}
		})
		w.requireOpen("b1")
		r, err := w.do(t.Context(), key, "sweep", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
	})
}

// F7: while waiting for a connection.
func TestCancelledWhileWaitingForAConnection(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1", "b2")
		w.held("b1", func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			_, err := w.do(ctx, guard.Text("b2"), "threshold", never(t))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			_, err = w.settle(ctx, guard.Text("b2"), "threshold", completed())
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
		w.requireOpen("b2")
		r, err := w.do(t.Context(), key, "sweep", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
	}, conns(1))
}

// F7: in the callback, which may notice it or not.
func TestCancelledInTheCallback(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for name, notice := range map[string]func(context.Context, endstate.Tx) error{
			"unnoticed": func(context.Context, endstate.Tx) error { return nil },
			"noticed":   func(ctx context.Context, _ endstate.Tx) error { return ctx.Err() },
			"by a query": func(ctx context.Context, tx endstate.Tx) error {
				_, err := tx.Exec(ctx, "SELECT 1")
				return err
			},
			"by a query, swallowed": func(ctx context.Context, tx endstate.Tx) error {
				_, _ = tx.Exec(ctx, "SELECT 1")
				return nil
			},
		} {
			key := w.open(name)
			callback := func(cancel context.CancelFunc) work {
				return func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
					require.NoError(t, write(ctx, tx, name))
					cancel()
					return completed(), notice(ctx, tx)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			_, err := w.do(ctx, key, "threshold", callback(cancel))
			require.ErrorIs(t, err, context.Canceled)
			w.requireNothingHeld()
			w.requireOpen(name)

			callers, err := w.begin(t.Context(), "")
			require.NoError(t, err)
			ctx, cancel = context.WithCancel(t.Context())
			_, err = callers.doTx(ctx, key, "threshold", callback(cancel))
			require.ErrorIs(t, err, context.Canceled)
			_ = callers.Commit(t.Context()) // a query that was broken off may have cost the connection
			w.requireOpen(name)

			r, err := w.do(t.Context(), key, "sweep", complete(name))
			require.NoError(t, err)
			require.True(t, r.Won)
		}
	})
}

// F7: while COMMIT waits, here in a deferred trigger. Whatever is reported must be what happened.
func TestCancelledAtCommit(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.exec("CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(hashtext(TG_TABLE_SCHEMA)); RETURN NULL; END $$")
		w.exec("CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON endstate_outbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()")
		for name, call := range map[string]func(ctx context.Context, id string) (finalize.Receipt, error){
			"do": func(ctx context.Context, id string) (finalize.Receipt, error) {
				return w.do(ctx, guard.Text(id), "threshold", complete(id))
			},
			"settle": func(ctx context.Context, id string) (finalize.Receipt, error) {
				return w.settle(ctx, guard.Text(id), "threshold", completed())
			},
		} {
			w.open(name)
			lock, err := w.db.Conn(t.Context())
			require.NoError(t, err)
			_, err = lock.ExecContext(t.Context(), "SELECT pg_advisory_lock(hashtext(current_schema))")
			require.NoError(t, err)
			ctx, cancel := context.WithCancelCause(t.Context())
			var r finalize.Receipt
			done := make(chan error)
			go func() {
				var err error
				r, err = call(ctx, name)
				done <- err
			}()
			w.waiting(1)
			cancel(errShutdown)
			err = <-done // the server is told to stop, and COMMIT goes on waiting if it isn't
			_, unlockErr := lock.ExecContext(t.Context(), "SELECT pg_advisory_unlock(hashtext(current_schema))")
			require.NoError(t, unlockErr)
			require.NoError(t, lock.Close())
			w.requireNothingHeld()
			require.Zero(t, r)
			if !dbtest.Cancels() { // the server knew nothing of it, and has committed by now
				w.requireCommittedUnknown(name, err)
				continue
			}
			require.ErrorIs(t, err, errShutdown)
			require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
			w.requireOpen(name)
		}
	}, on("pgx", "sql"), guardedBy("status", "ledger", "all"))
}

// requireCommittedUnknown checks that a call, of whose COMMIT its process knows no more than that it was sent, says so and is safe to
// repeat. The COMMIT took effect meanwhile.
func (w *world) requireCommittedUnknown(id string, err error) {
	w.t.Helper()
	require.ErrorIs(w.t, err, finalize.ErrOutcomeUnknown)
	w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
	again, err := w.do(w.t.Context(), guard.Text(id), "again", never(w.t))
	require.NoError(w.t, err)
	require.False(w.t, again.Won)
}

// F7: at whatever moment, between two statements too, where the server ignores a request to cancel.
func TestCancelledAtAnyMoment(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		w.held("b1", func() {
			// The error is the context's, or that of a dial whose deadline it set.
			for wait := time.Duration(0); wait < 8*time.Millisecond; wait += 400 * time.Microsecond {
				ctx, cancel := context.WithTimeout(t.Context(), wait)
				_, err := w.settle(ctx, key, "waiter", completed())
				require.Error(t, err)
				require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
				cancel()
				ctx, cancel = context.WithTimeout(t.Context(), wait)
				_, err = w.do(ctx, key, "waiter", never(t))
				require.Error(t, err)
				require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
				cancel()
			}
		})
		w.requireOpen("b1")
	}, on("pgx", "sql"))
}
