package lockredis

import (
	"fmt"
	"sync"
	"time"

	"github.com/endstate-go/endstate/lock"
)

// breaker keeps callers from asking a service that doesn't answer: after so many failures in a row nobody asks for a while,
// then one does, and if that fails too the while begins anew.
type breaker struct {
	failures int
	pause    time.Duration

	mu     sync.Mutex
	failed int
	until  time.Time
	last   error
}

// allow returns an error that wraps ErrUnavailable if the service is not to be asked now.
func (b *breaker) allow(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed < b.failures {
		return nil
	}
	if now.Before(b.until) {
		return fmt.Errorf("%w: not asked for another %v, since it failed %d times in a row, the last time with: %w",
			lock.ErrUnavailable, b.until.Sub(now).Round(time.Millisecond), b.failed, b.last)
	}
	b.until = now.Add(b.pause) // this caller asks, the others wait for what comes of it
	return nil
}

// report takes note of how a trip to the service ended.
func (b *breaker) report(now time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.failed, b.last = 0, nil
		return
	}
	b.failed++
	b.last = err
	if b.failed >= b.failures {
		b.until = now.Add(b.pause)
	}
}
