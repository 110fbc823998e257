package lock_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/lock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// patience bounds what should happen soon.
const patience = time.Minute

func eventually(t testing.TB, yes func() bool, what string) {
	t.Helper()
	require.Eventually(t, yes, patience, 5*time.Millisecond, what)
}

// never is a function that must not run.
func never(t testing.TB) func(context.Context) error {
	return func(context.Context) error {
		t.Error("the function ran without the lock")
		return nil
	}
}

// ran counts.
func ran(n *int) func(context.Context) error {
	return func(context.Context) error { *n++; return nil }
}

// requireLost waits for the lease's end.
func requireLost(t testing.TB, ctx context.Context) {
	t.Helper()
	select {
	case <-ctx.Done():
		require.ErrorIs(t, context.Cause(ctx), lock.ErrLost)
	case <-time.After(patience):
		t.Fatal("the lease was lost, and its context goes on")
	}
}
