package finalize_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/lock"
)

// lockFunc is a Locker of a test's own.
type lockFunc func(ctx context.Context, key string, fn func(context.Context) error) error

func (f lockFunc) Do(ctx context.Context, key string, fn func(context.Context) error) error {
	return f(ctx, key, fn)
}

// locked has the worlds' finalizers use a lock.
func locked(l finalize.Locker, more ...func(*finalize.Config)) option {
	return configured(func(c *finalize.Config) {
		c.Lock.Locker = l
		for _, change := range more {
			change(c)
		}
	})
}

// preparing are the usual stages: Prepare is the test's, Commit writes a row and completes the batch.
func preparing(id string, prepare func(context.Context) (string, error)) stages {
	return stages{Prepare: prepare, Commit: func(ctx context.Context, tx endstate.Tx, prepared string) (finalize.Outcome, error) {
		_, err := tx.Exec(ctx, "INSERT INTO writes (batch, note) VALUES ($1, $2)", id, prepared)
		return completed(), err
	}}
}

func TestPreparedOnceUnderALock(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		key := w.open("b")
		var prepared, running atomic.Int32
		const callers = 12
		var receipts [callers]finalize.Receipt
		var errs [callers]error
		var all sync.WaitGroup
		begun := make(chan struct{})
		for i := range callers {
			all.Go(func() {
				receipts[i], errs[i] = w.prepare(t.Context(), key, finalize.Trigger("trigger"), preparing("b", func(ctx context.Context) (string, error) {
					if prepared.Add(1) == 1 {
						close(begun)
					}
					require.EqualValues(t, 1, running.Add(1))
					defer running.Add(-1)
					token, ok := lock.Token(ctx)
					require.True(t, ok)
					require.Positive(t, token)
					return "scored", nil
				}))
			})
		}
		<-begun
		all.Wait()
		require.EqualValues(t, 1, prepared.Load(), "the others found it final")
		won := 0
		for i, r := range receipts {
			require.NoError(t, errs[i])
			require.Equal(t, "COMPLETE_STABLE", r.State)
			if r.Won {
				won++
			}
		}
		require.Equal(t, 1, won)
		require.Equal(t, [4]int{1, callers - 1, 0, 0}, w.trace.counts())
		require.Equal(t, []string{"scored"}, w.text("SELECT note FROM writes"))
		w.requireFinal("b", "COMPLETE_STABLE", "batch.completed")
	}, locked(lock.NewLocal()))
}

func TestPrepareRunsOutsideOfAnyTransaction(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r, err := w.prepare(t.Context(), w.open("b"), "sweep", preparing("b", func(context.Context) (string, error) {
			require.Zero(t, w.inTransaction())
			return "scored", nil
		}))
		require.NoError(t, err)
		require.True(t, r.Won)
	}, locked(lock.NewLocal()))
}

// inTransaction is how many transactions the finalizer has open.
func (w *world) inTransaction() int {
	if w.sqlite() {
		return w.sqlDB.Stats().InUse
	}
	return w.count("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND xact_start IS NOT NULL AND state <> 'active'", w.app)
}

func TestPrepareOfAFinalAggregateLocksNothing(t *testing.T) {
	untouched := lockFunc(func(context.Context, string, func(context.Context) error) error {
		panic("the lock was asked for")
	})
	each(t, func(t *testing.T, w *world) {
		key := w.open("b")
		_, err := w.settle(t.Context(), key, "webhook", completed())
		require.NoError(t, err)
		r, err := w.prepare(t.Context(), key, "sweep", preparing("b", neverPrepare(t)))
		require.NoError(t, err)
		require.False(t, r.Won)
		require.Equal(t, "COMPLETE_STABLE", r.State)
		require.Zero(t, w.writes("b"))
	}, locked(untouched))
}

func neverPrepare(t *testing.T) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		t.Error("Prepare ran")
		return "", errors.New("Prepare ran")
	}
}

func TestPrepareWithoutALock(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		key := w.open("b")
		// The other call wins while this one prepares: nothing keeps them apart but the guard.
		r, err := w.prepare(t.Context(), key, "slow", preparing("b", func(context.Context) (string, error) {
			r, err := w.prepare(t.Context(), key, "quick", preparing("b", func(context.Context) (string, error) { return "quick", nil }))
			require.NoError(t, err)
			require.True(t, r.Won)
			return "slow", nil
		}))
		require.NoError(t, err)
		require.False(t, r.Won)
		if r.Provenance {
			require.EqualValues(t, "quick", r.Trigger)
		}
		require.Equal(t, []string{"quick"}, w.text("SELECT note FROM writes"))
		w.requireFinal("b", "COMPLETE_STABLE", "batch.completed")
	})
}

func TestPrepareThatFailsWritesNothing(t *testing.T) {
	locks := lock.NewLocal()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b")
		prepare := func(f func() (string, error)) (finalize.Receipt, error) {
			return w.prepare(t.Context(), key, "trigger", preparing("b", func(context.Context) (string, error) { return f() }))
		}
		_, err := prepare(func() (string, error) { return "", finalize.ErrNotReady })
		require.ErrorIs(t, err, finalize.ErrNotReady)
		failed := errors.New("the model is away")
		_, err = prepare(func() (string, error) { return "", failed })
		require.ErrorIs(t, err, failed)
		require.PanicsWithValue(t, "in Prepare", func() { _, _ = prepare(func() (string, error) { panic("in Prepare") }) })
		exited := make(chan struct{})
		go func() {
			defer close(exited)
			_, _ = prepare(func() (string, error) { runtime.Goexit(); return "", nil })
		}()
		<-exited
		_, err = w.prepare(t.Context(), key, "trigger", stages{
			Prepare: func(context.Context) (string, error) { return "", nil },
			Commit: func(ctx context.Context, tx endstate.Tx, _ string) (finalize.Outcome, error) {
				return finalize.Outcome{}, errors.Join(write(ctx, tx, "b"), failed)
			},
		})
		require.ErrorIs(t, err, failed)
		w.requireOpen("b")
		require.Equal(t, [4]int{0, 0, 1, 2}, w.trace.counts())

		r, err := prepare(func() (string, error) { return "scored", nil })
		require.NoError(t, err)
		require.True(t, r.Won, "the lock was given back each time")
	}, locked(locks))
}

// losing is a lock that loses each lease as soon as the work begins.
func losing(ctx context.Context, _ string, fn func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	cancel(lock.ErrLost)
	return errors.Join(fn(ctx), lock.ErrLost)
}

// F12: the lease ends while the work goes on.
func TestLeaseLostInPrepare(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		key := w.open("heeds", "ignores", "late")
		_, err := w.prepare(t.Context(), key, "sweep", preparing("heeds", func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}))
		require.ErrorIs(t, err, lock.ErrLost)
		require.ErrorIs(t, err, context.Canceled)
		w.requireOpen("heeds")

		r, err := w.prepare(t.Context(), guard.Text("ignores"), "sweep", preparing("ignores", func(context.Context) (string, error) { return "late", nil }))
		require.NoError(t, err)
		require.True(t, r.Won, "the guard decides, and nobody else was there")
		w.requireFinal("ignores", "COMPLETE_STABLE", "batch.completed")

		r, err = w.prepare(t.Context(), guard.Text("late"), "sweep", preparing("late", func(context.Context) (string, error) {
			r, err := w.settle(t.Context(), guard.Text("late"), "webhook", completed())
			require.True(t, r.Won)
			return "late", err
		}))
		require.NoError(t, err)
		require.False(t, r.Won, "the guard decides")
		require.Zero(t, w.writes("late"))
		w.requireFinal("late", "COMPLETE_STABLE", "batch.completed")

		away, lost := w.trace.locks()
		require.Empty(t, away)
		require.Len(t, lost, 3)
		require.ErrorIs(t, lost[0], lock.ErrLost)
	}, locked(lockFunc(losing)))
}

// The caller's own end also ends a Commit, though that doesn't run on the lease's context.
func TestCallerCancelsBetweenTheStages(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		key := w.open("b")
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		_, err := w.prepare(ctx, key, "sweep", preparing("b", func(context.Context) (string, error) {
			cancel(enough)
			return "late", nil
		}))
		require.ErrorIs(t, err, enough)
		w.requireOpen("b")
	}, locked(lock.NewLocal()))
}

func TestLockServiceAway(t *testing.T) {
	gone := errors.New("no route to the lock service")
	away := lockFunc(func(context.Context, string, func(context.Context) error) error { return gone })
	for name, policy := range map[string]finalize.LockFailure{"fail open": finalize.FailOpen, "fail closed": finalize.FailClosed} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				key := w.open("b")
				r, err := w.prepare(t.Context(), key, "sweep", preparing("b", func(context.Context) (string, error) { return "scored", nil }))
				told, lost := w.trace.locks()
				require.Equal(t, []error{gone}, told)
				require.Empty(t, lost)
				if policy == finalize.FailClosed {
					require.ErrorIs(t, err, finalize.ErrLockUnavailable)
					require.ErrorIs(t, err, gone)
					w.requireOpen("b")
					return
				}
				require.NoError(t, err)
				require.True(t, r.Won)
				w.requireFinal("b", "COMPLETE_STABLE", "batch.completed")
			}, locked(away, func(c *finalize.Config) { c.Lock.OnFailure = policy }))
		})
	}
}

func TestContention(t *testing.T) {
	for name, change := range map[string]func(*finalize.Config){
		"return at once":  func(c *finalize.Config) { c.Lock.OnContention = finalize.ReturnInProgress },
		"wait for a time": func(c *finalize.Config) { c.Lock.Timeout = 50 * time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				key := w.open("b")
				r, err := w.prepare(t.Context(), key, "threshold", preparing("b", func(context.Context) (string, error) {
					_, err := w.prepare(t.Context(), key, "sweep", preparing("b", neverPrepare(t)))
					require.ErrorIs(t, err, finalize.ErrInProgress)
					other, ok := errors.AsType[*finalize.InProgressError](err)
					require.True(t, ok)
					require.EqualValues(t, "threshold", other.Trigger)
					require.Equal(t, key, other.Ref.Key)

					// Another aggregate isn't concerned.
					w.open("c")
					r, err := w.prepare(t.Context(), guard.Text("c"), "sweep", preparing("c", func(context.Context) (string, error) { return "", nil }))
					require.NoError(t, err)
					require.True(t, r.Won)
					return "scored", nil
				}))
				require.NoError(t, err)
				require.True(t, r.Won)
				away, lost := w.trace.locks()
				require.Empty(t, append(away, lost...))
			}, locked(lock.NewLocal(), change), on("pgx", "sqlite"), guardedBy("all"))
		})
	}
}

// Aggregates of two types may have one key.
func TestTheLocksKeyTellsAggregatesApart(t *testing.T) {
	for name, tt := range map[string]struct{ tenant, aggregate, want string }{
		"usual": {"", "batch", "batch/t:b"}, "with a slash": {"", "a/b", "a%2Fb/t:b"}, "a tenant's": {"acme/eu", "batch", "tenant/acme%2Feu/batch/t:b"},
	} {
		t.Run(name, func(t *testing.T) {
			var keys []string
			record := lockFunc(func(ctx context.Context, key string, fn func(context.Context) error) error {
				keys = append(keys, key)
				return fn(ctx)
			})
			each(t, func(t *testing.T, w *world) {
				r, err := w.prepare(t.Context(), w.open("b"), "sweep", preparing("b", func(context.Context) (string, error) { return "", nil }))
				require.NoError(t, err)
				require.True(t, r.Won)
				require.Equal(t, []string{tt.want}, keys)
			}, locked(record, func(c *finalize.Config) {
				c.Aggregate = tt.aggregate
				if tt.tenant != "" {
					c.Tenant = func(context.Context) (string, error) { return tt.tenant, nil }
				}
			}), on("sqlite"), guardedBy("ledger"), tampered())
		})
	}
}

func TestCallerCancelsWhileItWaitsForTheLock(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		key := w.open("b")
		enough := errors.New("enough")
		_, err := w.prepare(t.Context(), key, "threshold", preparing("b", func(context.Context) (string, error) {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(10*time.Millisecond, func() { cancel(enough) })
			_, err := w.prepare(ctx, key, "sweep", preparing("b", neverPrepare(t)))
			require.ErrorIs(t, err, enough)
			return "scored", nil
		}))
		require.NoError(t, err)
	}, locked(lock.NewLocal()), on("pgx", "sqlite"), guardedBy("all"))
}

func TestPrepareBadInput(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		key := w.open("b")
		good := preparing("b", neverPrepare(t))
		_, err := w.prepare(t.Context(), key, "trigger", stages{Commit: good.Commit})
		require.ErrorContains(t, err, "prepare is nil")
		_, err = w.prepare(t.Context(), key, "trigger", stages{Prepare: func(context.Context) (string, error) { return "", nil }})
		require.ErrorContains(t, err, "prepare returned neither a Func nor an error")
		_, err = w.prepare(t.Context(), guard.Key{}, "trigger", good)
		require.ErrorIs(t, err, guard.ErrInvalidKey)
		_, err = w.prepare(t.Context(), key, "", good)
		require.ErrorContains(t, err, "trigger is empty")
		if w.guard != "ledger" {
			_, err = w.prepare(t.Context(), guard.Text("absent"), "trigger", good)
			require.ErrorIs(t, err, guard.ErrNotFound)
		}
		w.requireOpen("b")
	}, on("pgx", "sqlite"))
}
