package lock

import (
	"context"
	"errors"
	"fmt"

	"github.com/endstate-go/endstate/internal/lease"
)

// Locker is what Postgres, Local and lockredis.Lock are. Implementations are safe for concurrent use; locktest.Run tests them.
type Locker interface {
	// Do waits until nobody else holds the lock of this key, and runs fn under it. The context that fn gets carries the
	// lease's Token, and ends with the cause ErrLost when the lease is lost. The lock is given back when fn is done,
	// also by a panic or runtime.Goexit, and though ctx may have ended. Do returns fn's error, joined with ErrLost if the
	// lease was lost while fn ran. When fn did not run, the error is ErrUnavailable, ErrAmbiguous or ErrInvalidKey, or that
	// of ctx, joined with ErrHeld if somebody was seen to hold the lock. A lock isn't reentrant: with the same key, Do inside
	// of fn waits for itself.
	Do(ctx context.Context, key string, fn func(context.Context) error) error

	// Try is Do without waiting: when somebody else holds the lock, fn does not run and the error is a HeldError.
	Try(ctx context.Context, key string, fn func(context.Context) error) error
}

// Errors that callers decide on. They arrive wrapped.
var (
	// ErrHeld is returned when somebody else holds the lock. The error is a HeldError.
	ErrHeld = errors.New("lock: held by another")

	// ErrUnavailable is returned when the lock service can't be asked, or refuses. Nothing was locked.
	ErrUnavailable = errors.New("lock: service unavailable")

	// ErrAmbiguous is returned when the lock service gave no answer in time, so that it may have heard the question. Fn did
	// not run. Should the lock have been taken, it is given back when the service answers again, and ends with its TTL at the
	// latest.
	ErrAmbiguous = errors.New("lock: no answer, so it isn't known whether it was taken")

	// ErrLost is the cause with which the context of a lost lease ends, and is returned when fn ran while, or after, its
	// lease was lost: somebody else may have run at the same time. Redis returns it, too, when the answer to a release got
	// lost and the client's second attempt found nothing.
	ErrLost = errors.New("lock: lease lost")

	// ErrInvalidKey is returned for a key that is empty or longer than MaxKey.
	ErrInvalidKey = lease.ErrInvalidKey

	// ErrConfig is returned by NewPostgres and lockredis.New for what doesn't make sense; the message names the field.
	ErrConfig = lease.ErrConfig
)

// MaxKey is the longest key, in bytes. It has room for the names of a tenant and an aggregate, and the
// longest key that package guard knows.
const MaxKey = lease.MaxKey

// HeldError says that somebody else holds the lock.
type HeldError struct {
	Key    string
	Holder string // the name that its holder gave by WithHolder; empty where that isn't known
}

func (e *HeldError) Error() string {
	if e.Holder == "" {
		return fmt.Sprintf("%v: key %q", ErrHeld, e.Key)
	}
	return fmt.Sprintf("%v: key %q, by %q", ErrHeld, e.Key, e.Holder)
}

// Is makes errors.Is(err, ErrHeld) hold.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

// HeldBy returns Holder. By this method others know the error without importing this package.
func (e *HeldError) HeldBy() string { return e.Holder }

// WithHolder returns a context in which locks are asked for under a name, such as a trigger's or a host's, that others who
// meet the lock are told (HeldError). It is cut at 200 bytes.
func WithHolder(ctx context.Context, name string) context.Context {
	return lease.WithHolder(ctx, name)
}

// Token returns the fencing token of the lease that ctx was made for (of the innermost, if there are several). For each
// key, a later lease has a greater token, also one of another process: a store outside of the database that remembers the
// greatest token it has seen can refuse what a holder does who lost its lease. Redis and Postgres take it from the
// server's clock in microseconds, so that no counter is left behind; only a clock that is set back breaks the order. Local
// counts.
func Token(ctx context.Context) (token int64, ok bool) {
	return lease.Token(ctx)
}

// inLine waits for a key within this process.
func inLine(ctx context.Context, queues *lease.Queues, key string, wait bool) error {
	entered, holder := queues.Enter(ctx, key, wait)
	switch held := (&HeldError{key, holder}); {
	case entered:
		return nil
	case wait:
		return gaveUp(ctx, held)
	default:
		return held
	}
}

// gaveUp is the error of a caller whose context ended while it waited.
func gaveUp(ctx context.Context, held *HeldError) error {
	return fmt.Errorf("%w while waiting: %w", context.Cause(ctx), held)
}
