package finalize_test

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/endstate-go/endstate/finalize"
)

// spy counts what the trace hooks are told.
type spy struct {
	mu                                            sync.Mutex
	won, lost, notReady, failed, retry, resolving []finalize.Call
	hot                                           []finalize.HotKey
	lockAway, lockLost                            []error
	swept                                         []finalize.Swept
	onRetry                                       func()
	onSwept                                       func(finalize.Swept)
}

func (s *spy) hooks() *finalize.Trace {
	note := func(list *[]finalize.Call, c finalize.Call) {
		s.mu.Lock()
		defer s.mu.Unlock()
		*list = append(*list, c)
	}
	return &finalize.Trace{
		Won:      func(_ context.Context, c finalize.Call, _ finalize.Receipt) { note(&s.won, c) },
		Lost:     func(_ context.Context, c finalize.Call, _ finalize.Receipt) { note(&s.lost, c) },
		NotReady: func(_ context.Context, c finalize.Call) { note(&s.notReady, c) },
		Failed:   func(_ context.Context, c finalize.Call, _ error) { note(&s.failed, c) },
		Retry: func(_ context.Context, c finalize.Call, _ error, _ time.Duration) {
			note(&s.retry, c)
			if s.onRetry != nil {
				s.onRetry()
			}
		},
		Resolving: func(_ context.Context, c finalize.Call, _ error) { note(&s.resolving, c) },
		Swept: func(_ context.Context, swept finalize.Swept) {
			s.mu.Lock()
			s.swept = append(s.swept, swept)
			s.mu.Unlock()
			if s.onSwept != nil {
				s.onSwept(swept)
			}
		},
		Hot: func(_ context.Context, key finalize.HotKey) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.hot = append(s.hot, key)
		},
		LockUnavailable: func(_ context.Context, _ finalize.Call, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.lockAway = append(s.lockAway, err)
		},
		LockLost: func(_ context.Context, _ finalize.Call, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.lockLost = append(s.lockLost, err)
		},
	}
}

// counts returns how often each hook was called, as won, lost, not ready, failed.
func (s *spy) counts() [4]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return [4]int{len(s.won), len(s.lost), len(s.notReady), len(s.failed)}
}

// locks returns the errors of locks that were away, and of leases that were lost.
func (s *spy) locks() (away, lost []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lockAway), slices.Clone(s.lockLost)
}

func (s *spy) retries() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.retry)
}
