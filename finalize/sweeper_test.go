package finalize_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

// sweeping is for worlds whose status guard can find what is due.
func sweeping(more ...func(*finalize.Config)) []option {
	touched := configured(func(c *finalize.Config) {
		s := statusGuard()
		s.Touched = "touched"
		if _, isStatus := c.Guard.(guard.Status); isStatus {
			c.Guard = s
		} else {
			c.Guard = guard.All(guard.Ledger{}, s)
		}
		for _, f := range more {
			f(c)
		}
	})
	return []option{touched, guardedBy("status", "all")}
}

// stuck adds open batches that were touched an hour ago.
func (w *world) stuck(ids ...string) {
	w.t.Helper()
	w.open(ids...)
	hourAgo := "now() - interval '1 hour'"
	if w.sqlite() {
		hourAgo = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-1 hour')"
	}
	w.exec("UPDATE batches SET touched = " + hourAgo + " WHERE id IN ('" + strings.Join(ids, "', '") + "')")
	w.exec("DELETE FROM transitions")
}

func completeAny(ctx context.Context, tx endstate.Tx, key guard.Key) (finalize.Outcome, error) {
	return complete(key.String())(ctx, tx)
}

func (w *world) newSweeper(fn func(ctx context.Context, tx endstate.Tx, key guard.Key) (finalize.Outcome, error), cfg *finalize.SweeperConfig) sweeper {
	w.t.Helper()
	s, err := w.sweeper(fn, cfg)
	require.NoError(w.t, err)
	return s
}

// What is open and was left alone is finalized, over several pages; what is final, or at work, is not touched.
func TestASweepFinalizesWhatIsDue(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		n := 1100
		if w.pool == nil {
			n = 60
		}
		due := ids(n)
		w.open("at work", "never touched", "final", "no status")
		w.stuck(due...)
		now := "now()"
		if w.sqlite() {
			now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
		}
		w.exec("UPDATE batches SET touched = " + now + " WHERE id = 'at work'")
		w.exec("UPDATE batches SET status = NULL WHERE id = 'no status'")
		w.exec("DELETE FROM transitions")
		_, err := w.settle(t.Context(), guard.Text("final"), "earlier", completed())
		require.NoError(t, err)

		s := w.newSweeper(completeAny, nil)
		got := s.Sweep(t.Context())
		require.NoError(t, got.Err)
		require.Positive(t, got.Elapsed)
		got.Elapsed = 0
		require.Equal(t, finalize.Swept{Found: n + 2, Won: n + 2}, got)
		for _, id := range []string{due[0], due[n-1], "never touched", "no status"} {
			w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
		}
		w.requireOpen("at work")
		if w.hasLedger() {
			require.Equal(t, []string{fmt.Sprint(n + 2)}, w.text(`SELECT count(*) FROM endstate_ledger WHERE "trigger" = 'sweep'`))
		}

		got = s.Sweep(t.Context())
		got.Elapsed = 0
		require.Equal(t, finalize.Swept{}, got, "nothing is left")
	}, sweeping()...)
}

// One that panics, exits, fails or isn't ready keeps no other from being finalized, and is found again.
func TestASweepGoesOn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.stuck("a", "b", "panics", "exits", "fails", "early", "z")
		s := w.newSweeper(func(ctx context.Context, tx endstate.Tx, key guard.Key) (finalize.Outcome, error) {
			switch key.String() {
			case "panics":
				panic("boom")
			case "exits":
				runtime.Goexit()
			case "fails":
				return finalize.Outcome{}, errors.New("no such file")
			case "early":
				return finalize.Outcome{}, finalize.ErrNotReady
			}
			return completeAny(ctx, tx, key)
		}, nil)
		for _, won := range []int{3, 0} {
			got := s.Sweep(t.Context())
			got.Elapsed = 0
			require.Equal(t, finalize.Swept{Found: won + 4, Won: won, NotReady: 1, Failed: 1, Panicked: 2}, got)
		}
		for _, id := range []string{"panics", "exits", "fails", "early"} {
			w.requireOpen(id)
		}
		w.requireFinal("z", "COMPLETE_STABLE", "batch.completed")
	}, sweeping()...)
}

// The figures are logged, at a level that fits, with the first error.
func TestASweepIsLogged(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	each(t, func(t *testing.T, w *world) {
		fail := true
		s := w.newSweeper(func(ctx context.Context, tx endstate.Tx, key guard.Key) (finalize.Outcome, error) {
			if fail {
				return finalize.Outcome{}, errors.New("no such file")
			}
			return completeAny(ctx, tx, key)
		}, nil)
		s.Sweep(t.Context())
		require.Empty(t, logged.String(), "nothing was due: a line at debug level")
		w.stuck("a")
		s.Sweep(t.Context())
		require.Regexp(t, `level=WARN msg=swept aggregate=batch found=1 won=0 lost=0 not_ready=0 busy=0 failed=1 panicked=0 elapsed=\S+ first_error=".*no such file"`, logged.String())
		logged.Reset()
		fail = false
		s.Sweep(t.Context())
		require.Regexp(t, `level=INFO msg=swept aggregate=batch found=1 won=1 lost=0 not_ready=0 busy=0 failed=0 panicked=0`, logged.String())
		require.Len(t, w.trace.swept, 3)

		logged.Reset()
		w.stuck("b")
		ctx, cancel := context.WithCancelCause(t.Context())
		swept := w.newSweeper(func(context.Context, endstate.Tx, guard.Key) (finalize.Outcome, error) {
			cancel(errShutdown)
			return finalize.Outcome{}, fmt.Errorf("broken off: %w", errShutdown)
		}, nil).Sweep(ctx)
		require.Equal(t, 1, swept.Failed)
		require.ErrorIs(t, swept.Err, errShutdown)
		require.NotContains(t, logged.String(), "WARN", "the service is being stopped")
	}, append(sweeping(func(c *finalize.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}), on("sqlite"), guardedBy("status"))...)
}

// Any number of hosts sweep at once, while other triggers fire.
func TestSweepersOnSeveralHosts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		due := ids(60)
		w.stuck(due...)
		var group sync.WaitGroup
		swept := make([]finalize.Swept, 4)
		for i := range swept {
			s, err := w.another().sweeper(completeAny, nil)
			require.NoError(t, err)
			group.Go(func() { swept[i] = s.Sweep(t.Context()) })
		}
		wins := 0
		for _, id := range due[:10] {
			r, err := w.do(t.Context(), guard.Text(id), "threshold", complete(id))
			require.NoError(t, err)
			if r.Won {
				wins++
			}
		}
		group.Wait()
		for _, s := range swept {
			require.NoError(t, s.Err)
			require.Equal(t, s.Found, s.Won+s.Lost)
			wins += s.Won
		}
		require.Equal(t, len(due), wins)
		for _, id := range due {
			w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
		}
	}, sweeping()...)
}

// F18: only the database's clock counts. Here it is a day ahead of the host's, and then behind.
func TestASweepGoesByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		clock := func(off string) {
			w.exec("CREATE OR REPLACE FUNCTION " + w.schema + ".clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT pg_catalog.clock_timestamp() + interval '" + off + "' $$")
		}
		clock("-1 day")
		w.open("b1")
		w.exec("UPDATE batches SET touched = now() - interval '2 hours'")
		s := w.newSweeper(completeAny, &finalize.SweeperConfig{Idle: time.Hour})
		require.Zero(t, s.Sweep(t.Context()).Found, "by the host's clock it is due")
		w.exec("UPDATE batches SET touched = now()")
		clock("0")
		require.Zero(t, s.Sweep(t.Context()).Found)
		clock("1 day")
		require.Equal(t, 1, s.Sweep(t.Context()).Won, "by the host's clock it isn't due")
	}, append(sweeping(), on("pgx", "sql"), func(s *setup) { s.ownClock = true })...)
}

// F28: every trigger of a key fails during an outage; when it is over, the sweeper, which went on all the time, finalizes it.
func TestWhatFailedDuringAnOutageIsFinalizedAfterwards(t *testing.T) {
	for _, database := range []string{"pgx", "sql"} {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			proxy := pgfault.New(t, url)
			options := append(sweeping(), configured(func(c *finalize.Config) { c.ClaimTimeout = time.Second }))
			w := newWorld(t, database, "all", url, options...)
			proxied := connect(t, database, "all", proxy.URL(), w.schema, options...)
			w.stuck("b1", "b2")
			swept := make(chan finalize.Swept, 100)
			proxied.trace.onSwept = func(s finalize.Swept) { swept <- s }
			s := proxied.newSweeper(completeAny, &finalize.SweeperConfig{Every: 20 * time.Millisecond})

			proxy.Refuse(true)
			proxy.CutAll()
			for _, trigger := range []finalize.Trigger{"periodic", "threshold", "recovery"} {
				_, err := proxied.do(t.Context(), guard.Text("b1"), trigger, complete("b1"))
				require.Error(t, err)
			}
			w.requireOpen("b1")
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Run(ctx) }()
			require.Error(t, (<-swept).Err, "a sweep during the outage")
			proxy.Refuse(false)
			for won := 0; won < 2; {
				won += (<-swept).Won
			}
			w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
			w.requireFinal("b2", "COMPLETE_STABLE", "batch.completed")
			cancel()
			require.NoError(t, <-ended)
		})
	}
}

// Run ends when its context does, after what it is at work on has ended, and that is no error.
func TestRunEndsCleanly(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.stuck("b1")
		working := make(chan struct{})
		s := w.newSweeper(func(ctx context.Context, tx endstate.Tx, key guard.Key) (finalize.Outcome, error) {
			close(working)
			<-ctx.Done()
			return completed(), nil
		}, &finalize.SweeperConfig{Every: time.Millisecond})
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		<-working
		cancel(errShutdown)
		require.NoError(t, <-ended)
		w.requireOpen("b1")
		w.requireNothingHeld()
		require.ErrorIs(t, w.trace.swept[len(w.trace.swept)-1].Err, errShutdown)
	}, sweeping()...)
}

// A service that knows better finds what is due by itself, whatever the guard.
func TestDueOfOnesOwn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.open("b1", "b2", "b3")
		boom := errors.New("boom")
		s := w.newSweeper(completeAny, &finalize.SweeperConfig{Due: func(context.Context, endstate.Querier) iter.Seq2[guard.Key, error] {
			return func(yield func(guard.Key, error) bool) {
				_ = yield(guard.Text("b1"), nil) && yield(guard.Text("b3"), nil) && yield(guard.Key{}, boom)
			}
		}})
		got := s.Sweep(t.Context())
		require.ErrorIs(t, got.Err, boom)
		require.Equal(t, 2, got.Won, "what it had found before")
		w.requireOpen("b2")
		w.requireFinal("b3", "COMPLETE_STABLE", "batch.completed")
	})
}

func TestSweeperConfig(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for says, cfg := range map[string]*finalize.SweeperConfig{
			"Due is nil":          nil,
			"Every is negative":   {Every: -1},
			"Idle is negative":    {Idle: -1},
			"AtOnce is negative":  {AtOnce: -1},
			"Timeout is negative": {Timeout: -1},
			"Trigger is 201":      {Trigger: finalize.Trigger(strings.Repeat("x", 201))},
		} {
			_, err := w.sweeper(completeAny, cfg)
			require.ErrorIs(t, err, finalize.ErrConfig)
			require.ErrorContains(t, err, says)
		}
	}, on("sqlite"))
}
