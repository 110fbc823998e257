package locktest

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/lock"
)

func (s *suite) exclusion() {
	clients := []lock.Locker{s.New(s.t), s.New(s.t), s.New(s.t)}
	const callers, times = 12, 4
	var holders, ran atomic.Int32
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for range times {
				err := clients[i%len(clients)].Do(s.ctx, s.key, func(context.Context) error {
					if holders.Add(1) != 1 {
						s.t.Error("two hold the lock")
					}
					ran.Add(1)
					runtime.Gosched()
					holders.Add(-1)
					return nil
				})
				if err != nil {
					s.t.Errorf("Do: %v", err)
				}
			}
		})
	}
	all.Wait()
	require.EqualValues(s.t, callers*times, ran.Load(), "every call gets its turn")
	s.requireFree(s.key)
}

func (s *suite) independent() {
	l := s.New(s.t)
	letGo := s.hold(l, s.ctx, s.key+"/a")
	ran := false
	require.NoError(s.t, l.Do(s.ctx, s.key+"/b", func(context.Context) error { ran = true; return nil }))
	require.True(s.t, ran)
	require.NoError(s.t, letGo())
}

func (s *suite) hostileKeys() {
	// All of them are held at once, so none is another one, and each is held for another client too.
	l, other := s.New(s.t), s.New(s.t)
	keys := []string{"a", "A", " a", "a ", "a\x00", "a\x00b", "\xff\xfe", "{a}", "{", "}{", "a*", "[a]", "a\r\nGET b", `'; DROP TABLE x; --`, "ä", "a%2F", "a/b", strings.Repeat("k", lock.MaxKey)}
	var nest func(ctx context.Context, keys []string) error
	nest = func(ctx context.Context, rest []string) error {
		if len(rest) > 0 {
			return l.Do(ctx, rest[0], func(ctx context.Context) error { return nest(ctx, rest[1:]) })
		}
		for _, key := range keys {
			require.ErrorIs(s.t, other.Try(ctx, key, s.never), lock.ErrHeld, "%.20q", key)
		}
		return nil
	}
	// One at a time where the service can hold few at once.
	for _, some := range [][]string{keys[:6], keys[6:12], keys[12:]} {
		keys = some
		require.NoError(s.t, nest(s.ctx, some))
	}
}

func (s *suite) badInput() {
	l := s.New(s.t)
	for _, try := range []func(context.Context, string, func(context.Context) error) error{l.Do, l.Try} {
		require.ErrorIs(s.t, try(s.ctx, "", s.never), lock.ErrInvalidKey)
		require.ErrorIs(s.t, try(s.ctx, strings.Repeat("k", lock.MaxKey+1), s.never), lock.ErrInvalidKey)
		require.Error(s.t, try(s.ctx, s.key, nil))
	}
}

func (s *suite) tryHeld() {
	l, other := s.New(s.t), s.New(s.t)
	letGo := s.hold(l, lock.WithHolder(s.ctx, "the sweep"), s.key)
	for _, who := range []lock.Locker{l, other} {
		err := who.Try(s.ctx, s.key, s.never)
		require.ErrorIs(s.t, err, lock.ErrHeld)
		held, ok := errors.AsType[*lock.HeldError](err)
		require.True(s.t, ok, "it is a HeldError")
		require.Equal(s.t, s.key, held.Key)
		if !s.Anonymous || who == l {
			require.Equal(s.t, "the sweep", held.HeldBy())
		}
	}
	require.NoError(s.t, letGo())
	s.requireFree(s.key)
}

func (s *suite) waiter() {
	for _, l := range []lock.Locker{s.New(s.t), s.New(s.t)} {
		letGo := s.hold(s.New(s.t), s.ctx, s.key)
		var released atomic.Bool
		done := make(chan error, 1)
		go func() {
			done <- l.Do(s.ctx, s.key, func(context.Context) error {
				if !released.Load() {
					s.t.Error("it did not wait")
				}
				return nil
			})
		}()
		select {
		case err := <-done:
			require.NoError(s.t, err)
			s.t.Fatal("Do returned though another holds the lock")
		case <-time.After(30 * time.Millisecond): // long enough to have asked
		}
		released.Store(true)
		require.NoError(s.t, letGo())
		require.NoError(s.t, <-done)
	}
}

func (s *suite) cancelledWaiter() {
	l, other := s.New(s.t), s.New(s.t)
	letGo := s.hold(l, s.ctx, s.key)
	cause := errors.New("the caller had enough")
	for _, who := range []lock.Locker{l, other} {
		var waiters sync.WaitGroup
		ctx, cancel := context.WithCancelCause(s.ctx)
		for range 5 {
			waiters.Go(func() {
				err := who.Do(ctx, s.key, s.never)
				if !errors.Is(err, cause) {
					s.t.Errorf("a cancelled waiter returned %v", err)
				}
			})
		}
		// Long enough to have seen that it is held.
		for limit := 20 * time.Millisecond; ; limit *= 2 {
			expired, done := context.WithTimeout(s.ctx, limit)
			err := who.Do(expired, s.key, s.never)
			done()
			require.ErrorIs(s.t, err, context.DeadlineExceeded)
			if errors.Is(err, lock.ErrHeld) {
				break
			}
		}
		cancel(cause)
		waiters.Wait()
	}
	require.NoError(s.t, letGo())
	s.requireFree(s.key)
}

func (s *suite) endedContext() {
	l := s.New(s.t)
	ctx, cancel := context.WithCancelCause(s.ctx)
	cause := errors.New("gone")
	cancel(cause)
	require.ErrorIs(s.t, l.Do(ctx, s.key, s.never), cause)
	require.ErrorIs(s.t, l.Try(ctx, s.key, s.never), cause)
	s.requireFree(s.key)
}

func (s *suite) tokens() {
	clients := []lock.Locker{s.New(s.t), s.New(s.t)}
	var last int64
	for i := range 20 {
		require.NoError(s.t, clients[i%2].Do(s.ctx, s.key, func(ctx context.Context) error {
			token, ok := lock.Token(ctx)
			require.True(s.t, ok, "the context carries a token")
			require.Greater(s.t, token, last, "token %d", i)
			last = token
			return nil
		}))
	}
	_, ok := lock.Token(s.ctx)
	require.False(s.t, ok)
}

func (s *suite) passedOn() {
	type mine struct{}
	ctx, cancel := context.WithCancelCause(context.WithValue(s.ctx, mine{}, "value"))
	failed, cause := errors.New("failed"), errors.New("gone")
	err := s.New(s.t).Do(ctx, s.key, func(ctx context.Context) error {
		require.Equal(s.t, "value", ctx.Value(mine{}))
		require.NoError(s.t, ctx.Err())
		cancel(cause)
		<-ctx.Done()
		require.Equal(s.t, cause, context.Cause(ctx))
		return failed
	})
	require.Equal(s.t, failed, err)
	s.requireFree(s.key) // though the caller's context had ended
}

func (s *suite) givenBack() {
	l := s.New(s.t)
	for name, end := range map[string]func(){
		"panic":  func() { panic("in the function") },
		"Goexit": runtime.Goexit,
	} {
		recovered := make(chan any, 1)
		go func() {
			defer func() { recovered <- recover() }()
			_ = l.Do(s.ctx, s.key, func(context.Context) error { end(); return nil })
		}()
		if name == "panic" {
			require.Equal(s.t, "in the function", <-recovered, "the panic goes on")
		} else {
			require.Nil(s.t, <-recovered)
		}
		s.requireFree(s.key)
	}
}

func (s *suite) lost() {
	if s.Lose == nil {
		return
	}
	err := s.New(s.t).Do(s.ctx, s.key, func(ctx context.Context) error {
		s.Lose(s.t, s.key)
		select {
		case <-ctx.Done():
		case <-s.ctx.Done():
			s.t.Error("the lease was lost, and its context goes on")
		}
		require.ErrorIs(s.t, context.Cause(ctx), lock.ErrLost)
		s.requireFree(s.key)
		return nil
	})
	require.ErrorIs(s.t, err, lock.ErrLost, "the function finished, and its caller is told")
	s.requireFree(s.key)
}
