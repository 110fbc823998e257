// Package locktest tests whether a lock keeps the contract of lock.Locker, on the real service:
//
//	func TestMyLock(t *testing.T) {
//		locktest.Run(t, locktest.Harness{New: func(t testing.TB) lock.Locker { return newMyLock(t) }})
//	}
//
// It checks that one holder at a time has a key, also through several clients of the service, and keys don't wait for one
// another; that fencing tokens grow; that a lock is given back after an error, a panic, runtime.Goexit and the end of the
// caller's context; that waiting ends with the context and leaves nothing behind; and, if the harness can take a lease
// away, that its holder is told. It never sleeps: a caller that should wait is seen waiting by what happens next.
package locktest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/lock"
)

// Harness is what Run needs to know. New is required.
type Harness struct {
	// New returns another client of the one service, as another process would have it; it is closed at the test's end. A
	// lock within one process returns the same one each time.
	New func(t testing.TB) lock.Locker
	// Lose takes the lease of a held key away at the service. Leave it nil if that can't happen.
	Lose func(t testing.TB, key string)
	// Anonymous says that the service doesn't keep its holders' names.
	Anonymous bool
}

// patience is how long what should happen may take. It bounds failing tests only.
const patience = 2 * time.Minute

// Run tests the harness's lock, each promise in a subtest.
func Run(t *testing.T, h Harness) {
	t.Helper()
	require.NotNil(t, h.New, "Harness.New")
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"one holder at a time", (*suite).exclusion},
		{"keys do not wait for each other", (*suite).independent},
		{"hostile keys are keys", (*suite).hostileKeys},
		{"bad input is refused", (*suite).badInput},
		{"try says who holds it", (*suite).tryHeld},
		{"a waiter gets it next", (*suite).waiter},
		{"a cancelled waiter leaves nothing behind", (*suite).cancelledWaiter},
		{"a context that has ended locks nothing", (*suite).endedContext},
		{"tokens grow", (*suite).tokens},
		{"the function's context and error are the caller's", (*suite).passedOn},
		{"it is given back however the function ends", (*suite).givenBack},
		{"a lost lease is told", (*suite).lost},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			test.run(&suite{Harness: h, t: t, ctx: ctx, key: t.Name()})
		})
	}
}

type suite struct {
	Harness
	t   *testing.T
	ctx context.Context
	key string // of this test alone
}

// hold takes a key in a goroutine of its own and returns when it is held. The function lets it go, and waits for that.
func (s *suite) hold(l lock.Locker, ctx context.Context, key string) (letGo func() error) {
	s.t.Helper()
	held, enough, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- l.Do(ctx, key, func(context.Context) error {
			close(held)
			<-enough
			return nil
		})
	}()
	select {
	case <-held:
	case err := <-done:
		require.NoError(s.t, err, "Do of a key that nobody holds")
		s.t.Fatal("Do returned without running the function")
	}
	end := sync.OnceValue(func() error {
		close(enough)
		return <-done
	})
	s.t.Cleanup(func() { _ = end() }) // for a test that fails midway
	return end
}

// requireFree checks that nobody holds a key: a client of its own gets it at once.
func (s *suite) requireFree(key string) {
	s.t.Helper()
	ran := false
	require.NoError(s.t, s.New(s.t).Try(s.ctx, key, func(context.Context) error { ran = true; return nil }), "the lock was not given back")
	require.True(s.t, ran, "Try returned nil without running the function")
}

// never is a function that must not run.
func (s *suite) never(context.Context) error {
	s.t.Error("the function ran without the lock")
	return nil
}
