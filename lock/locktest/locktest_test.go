package locktest_test

import (
	"context"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/lock/locktest"
)

// brokenEnv names the lock that a process of TestBrokenLocksAreCaught runs the suite on.
const brokenEnv = "LOCKTEST_BROKEN"

// changed is a Local lock of which a test changes one thing.
type changed struct {
	*lock.Local
	run func(ctx context.Context, l *lock.Local, key string, fn func(context.Context) error) error
}

func (c changed) Do(ctx context.Context, key string, fn func(context.Context) error) error {
	if fn == nil {
		return c.Local.Do(ctx, key, fn)
	}
	return c.run(ctx, c.Local, key, fn)
}

// broken are locks that break one promise each, by the subtest that has to notice.
var broken = map[string]func(ctx context.Context, l *lock.Local, key string, fn func(context.Context) error) error{
	"one_holder_at_a_time": func(ctx context.Context, l *lock.Local, key string, fn func(context.Context) error) error {
		return lock.NewLocal().Do(ctx, key, fn)
	},
	"it_is_given_back_however_the_function_ends": func(ctx context.Context, l *lock.Local, key string, fn func(context.Context) error) error {
		held, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			done <- l.Do(ctx, key, func(context.Context) error { close(held); <-release; return nil })
		}()
		select {
		case <-held:
		case err := <-done:
			return err
		}
		err := fn(ctx) // a panic leaves the lock behind
		close(release)
		<-done
		return err
	},
	"tokens_grow": func(ctx context.Context, l *lock.Local, key string, fn func(context.Context) error) error {
		return l.Do(ctx, key, func(context.Context) error { return fn(ctx) })
	},
	"the_function's_context_and_error_are_the_caller's": func(ctx context.Context, l *lock.Local, key string, fn func(context.Context) error) error {
		return l.Do(ctx, key, func(ctx context.Context) error { _ = fn(ctx); return nil })
	},
	"a_context_that_has_ended_locks_nothing": func(ctx context.Context, l *lock.Local, key string, fn func(context.Context) error) error {
		return l.Do(context.WithoutCancel(ctx), key, fn)
	},
}

func TestBrokenLocksAreCaught(t *testing.T) {
	if name := os.Getenv(brokenEnv); name != "" {
		l := changed{lock.NewLocal(), broken[name]}
		locktest.Run(t, locktest.Harness{New: func(testing.TB) lock.Locker { return l }})
		return
	}
	for name := range broken {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestBrokenLocksAreCaught$/^"+name+"$", "-test.timeout", "100s")
			cmd.Env = append(os.Environ(), brokenEnv+"="+name)
			out, err := cmd.CombinedOutput()
			require.Error(t, err, string(out))
			require.Contains(t, string(out), "--- FAIL: TestBrokenLocksAreCaught/"+name, string(out))
		})
	}
}
