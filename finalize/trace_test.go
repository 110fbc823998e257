package finalize_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

type spanKey struct{}

// spans notes what happens between the start and the end of each call and callback, as a tracer does: by what it put into the
// context.
type spans struct {
	mu   sync.Mutex
	log  []string
	open int
}

func (s *spans) start(name string) func(context.Context, finalize.Call) context.Context {
	return func(ctx context.Context, c finalize.Call) context.Context {
		outer, _ := ctx.Value(spanKey{}).(string)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open++
		return context.WithValue(ctx, spanKey{}, outer+"/"+name)
	}
}

func (s *spans) note(ctx context.Context, what string, ends bool) {
	span, _ := ctx.Value(spanKey{}).(string)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, span+" "+what)
	if ends {
		s.open--
	}
}

// take returns what was noted since the last time. Nothing may be open then.
func (s *spans) take(t *testing.T) []string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Zero(t, s.open, "spans that were not ended")
	log := s.log
	s.log = nil
	return log
}

// A span can enclose a call, and one each run of its callback: the contexts that the hooks return are handed on.
func TestSpansByTraceHooks(t *testing.T) {
	t.Parallel()
	failure := errors.New("failed")
	alone(t, func(t *testing.T, kind, dsn string) {
		traced := new(spans)
		w := newWorld(t, kind, "all", dsn, configured(func(c *finalize.Config) {
			c.Cache = finalize.CacheConfig{}
			c.Trace = traced.hooks()
		}))
		ctx := t.Context()
		w.open("b1", "b2", "b3", "b4", "b5")
		callback := func(err error) work {
			return func(ctx context.Context, _ endstate.Tx) (finalize.Outcome, error) {
				traced.note(ctx, "at work", false)
				return completed(), err
			}
		}
		call := func(want []string, run func()) {
			t.Helper()
			run()
			require.ElementsMatch(t, want, traced.take(t))
		}
		call([]string{"/call/run at work", "/call/run ran: failed", "/call failed"}, func() {
			_, err := w.do(ctx, guard.Text("b1"), "threshold", callback(failure))
			require.ErrorIs(t, err, failure)
		})
		call([]string{"/call/run at work", "/call/run ran: " + finalize.ErrNotReady.Error(), "/call not ready"}, func() {
			_, err := w.do(ctx, guard.Text("b1"), "threshold", callback(finalize.ErrNotReady))
			require.ErrorIs(t, err, finalize.ErrNotReady)
		})
		call([]string{"/call/run at work", "/call/run ran", "/call won"}, func() {
			_, err := w.do(ctx, guard.Text("b1"), "threshold", callback(nil))
			require.NoError(t, err)
		})
		for range 2 { // the second one is answered from memory
			call([]string{"/call lost"}, func() {
				_, err := w.do(ctx, guard.Text("b1"), "threshold", never(t))
				require.NoError(t, err)
			})
		}
		call([]string{"/call won"}, func() {
			_, err := w.settle(ctx, guard.Text("b2"), "threshold", completed())
			require.NoError(t, err)
		})
		call([]string{"/call/run at work", "/call/run ran", "/call won"}, func() {
			tx, err := w.begin(ctx, "")
			require.NoError(t, err)
			_, err = tx.doTx(ctx, guard.Text("b3"), "threshold", callback(nil))
			require.NoError(t, err)
			require.NoError(t, tx.Commit(ctx))
		})
		call([]string{"/call won", "/call lost"}, func() {
			_, err := w.many(ctx, "sweep", []finalize.Item{{Key: guard.Text("b4"), Outcome: completed()}, {Key: guard.Text("b1"), Outcome: completed()}})
			require.NoError(t, err)
		})
		require.Panics(t, func() {
			_, _ = w.do(ctx, guard.Text("b5"), "threshold", func(context.Context, endstate.Tx) (finalize.Outcome, error) { panic("broken") })
		})
		require.Equal(t, []string{"/call/run ran: finalize: the callback panicked"}, traced.log)
	})
}

// hooks are those that make spans, and end them.
func (s *spans) hooks() *finalize.Trace {
	return &finalize.Trace{
		Began: s.start("call"), Running: s.start("run"),
		Ran: func(ctx context.Context, _ finalize.Call, err error) {
			text := "ran"
			if err != nil {
				text += ": " + err.Error()
			}
			s.note(ctx, text, true)
		},
		Won:      func(ctx context.Context, _ finalize.Call, _ finalize.Receipt) { s.note(ctx, "won", true) },
		Lost:     func(ctx context.Context, _ finalize.Call, _ finalize.Receipt) { s.note(ctx, "lost", true) },
		NotReady: func(ctx context.Context, _ finalize.Call) { s.note(ctx, "not ready", true) },
		Failed:   func(ctx context.Context, _ finalize.Call, _ error) { s.note(ctx, "failed", true) },
	}
}

// alone runs a test on each database, for worlds that share nothing.
func alone(t *testing.T, run func(t *testing.T, kind, dsn string)) {
	for _, kind := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			if kind == "sqlite" {
				run(t, kind, dbtest.SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), "wal"))
			} else {
				run(t, kind, dbtest.Postgres(t))
			}
		})
	}
}

// A sweep of a thousand prints no thousand lines, unless somebody wants them.
func TestAWinIsLoggedAtDebugLevel(t *testing.T) {
	t.Parallel()
	for level, want := range map[slog.Level]bool{slog.LevelInfo: false, slog.LevelDebug: true} {
		t.Run(level.String(), func(t *testing.T) {
			t.Parallel()
			alone(t, func(t *testing.T, kind, dsn string) {
				var logged bytes.Buffer
				w := newWorld(t, kind, "status", dsn, configured(func(c *finalize.Config) {
					c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: level}))
				}))
				_, err := w.settle(t.Context(), w.open("b1"), "threshold", completed())
				require.NoError(t, err)
				require.Equal(t, want, bytes.Contains(logged.Bytes(), []byte("finalized")))
				require.Equal(t, want, logged.Len() > 0)
			})
		})
	}
}
