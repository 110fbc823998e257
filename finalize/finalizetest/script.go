package finalizetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// Door is what a trigger usually calls of a *finalize.Finalizer. A service whose triggers call more or less names an interface of
// its own; a Script has the methods of both.
type Door[Tx any] interface {
	Do(ctx context.Context, key guard.Key, trigger finalize.Trigger, fn finalize.Func[Tx]) (finalize.Receipt, error)
	Settle(ctx context.Context, key guard.Key, trigger finalize.Trigger, outcome finalize.Outcome) (finalize.Receipt, error)
}

// Script is a door that answers as the test says. Each call takes the next answer of those that Then was given; when there is none
// left, the real door answers. It is safe for concurrent use.
type Script[Tx any] struct {
	t    testing.TB
	door Door[Tx]

	mu      sync.Mutex
	answers []Answer
	calls   []string
}

var _ Door[any] = (*Script[any])(nil)

// NewScript returns a Script in front of a door. Without one (nil), a call that finds no answer left ends the test. Answers that
// weren't taken by the test's end fail it.
func NewScript[Tx any](t testing.TB, door Door[Tx]) *Script[Tx] {
	s := &Script[Tx]{t: t, door: door}
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.answers) > 0 {
			t.Errorf("finalizetest: %d answers were not asked for; the calls were %q", len(s.answers), s.calls)
		}
	})
	return s
}

// Answer is what becomes of one call.
type Answer struct {
	receipt   finalize.Receipt
	err       error
	first     bool // the call goes to the real door first, and its answer is lost
	conflicts string
}

// Win is an answer without a database: the call has won. Its callback isn't run.
func Win(state string) Answer { return Answer{receipt: finalize.Receipt{Won: true, State: state}} }

// Lose is the answer of a call that came too late: another trigger has brought the aggregate into a state. Its callback isn't run.
func Lose(state string, by finalize.Trigger) Answer {
	return Answer{receipt: finalize.Receipt{State: state, Provenance: true, Trigger: by, At: time.Now().UTC(), Token: uuid.New(), Differs: true}}
}

// Busy is the answer of a call that waited in vain for another one: finalize.ErrBusy. Its callback isn't run.
func Busy() Answer { return Answer{err: finalize.ErrBusy} }

// Conflict is the answer of a call one of whose events, by its type, has a dedup key that is held: a
// *finalize.EventConflictError. With a real door the callback is run, and what it did is undone.
func Conflict(eventType string) Answer {
	return Answer{err: finalize.ErrEventConflict, conflicts: eventType}
}

// Unknown is the answer of a call whose COMMIT got no answer: finalize.ErrOutcomeUnknown, though nothing was written. Its callback
// isn't run.
func Unknown() Answer { return Answer{err: finalize.ErrOutcomeUnknown} }

// UnknownAfter is Unknown after the real door has done what it was asked for: a second call finds the aggregate final.
func UnknownAfter() Answer { return Answer{err: finalize.ErrOutcomeUnknown, first: true} }

// Fail is the answer of a call that fails in any other way. Its callback isn't run.
func Fail(err error) Answer { return Answer{err: err} }

// Then adds answers, one for each of the next calls.
func (s *Script[Tx]) Then(answers ...Answer) *Script[Tx] {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, answers...)
	return s
}

// Calls are the calls so far, in words, in their order.
func (s *Script[Tx]) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

// Do implements Door.
func (s *Script[Tx]) Do(ctx context.Context, key guard.Key, trigger finalize.Trigger, fn finalize.Func[Tx]) (finalize.Receipt, error) {
	s.t.Helper()
	return s.call(describe("Do", key, trigger), key, func(undo error) (finalize.Receipt, error) {
		return s.door.Do(ctx, key, trigger, undone(fn, undo))
	})
}

// Settle implements Door.
func (s *Script[Tx]) Settle(ctx context.Context, key guard.Key, trigger finalize.Trigger, outcome finalize.Outcome) (finalize.Receipt, error) {
	s.t.Helper()
	return s.call(describe("Settle", key, trigger), key, func(undo error) (finalize.Receipt, error) {
		if undo != nil {
			return finalize.Receipt{}, undo
		}
		return s.door.Settle(ctx, key, trigger, outcome)
	})
}

// Preparer is the door of a trigger whose work is long. A *finalize.Finalizer is one.
type Preparer[Tx any] interface {
	DoPrepared(ctx context.Context, key guard.Key, trigger finalize.Trigger, prepare func(context.Context) (finalize.Func[Tx], error)) (finalize.Receipt, error)
}

// DoPrepared is for triggers whose work is long. The real door must be a Preparer.
func (s *Script[Tx]) DoPrepared(ctx context.Context, key guard.Key, trigger finalize.Trigger, prepare func(context.Context) (finalize.Func[Tx], error)) (finalize.Receipt, error) {
	s.t.Helper()
	return s.call(describe("DoPrepared", key, trigger), key, func(undo error) (finalize.Receipt, error) {
		door, ok := s.door.(Preparer[Tx])
		if !ok {
			return finalize.Receipt{}, fmt.Errorf("finalizetest: %T has no DoPrepared", s.door)
		}
		return door.DoPrepared(ctx, key, trigger, func(ctx context.Context) (finalize.Func[Tx], error) {
			fn, err := prepare(ctx)
			return undone(fn, undo), err
		})
	})
}

// undone is fn, after which all is rolled back if undo isn't nil.
func undone[Tx any](fn finalize.Func[Tx], undo error) finalize.Func[Tx] {
	if undo == nil || fn == nil {
		return fn
	}
	return func(ctx context.Context, tx Tx) (finalize.Outcome, error) {
		out, err := fn(ctx, tx)
		if err == nil {
			err = undo
		}
		return out, err
	}
}

// call answers one call. real asks the real door; with an error, so that what it did is undone.
func (s *Script[Tx]) call(what string, key guard.Key, real func(undo error) (finalize.Receipt, error)) (finalize.Receipt, error) {
	s.t.Helper()
	s.mu.Lock()
	s.calls = append(s.calls, what)
	var answer *Answer
	if len(s.answers) > 0 {
		answer, s.answers = &s.answers[0], s.answers[1:]
	}
	s.mu.Unlock()
	switch {
	case answer == nil && s.door == nil:
		s.t.Fatalf("finalizetest: %s: the script has no answer left, and no real door", what)
	case answer == nil:
		return real(nil)
	case answer.conflicts != "":
		conflict := &finalize.EventConflictError{Ref: guard.Ref{Key: key}, Type: answer.conflicts, DedupKey: "scripted", HeldBy: uuid.New()}
		if s.door == nil {
			return finalize.Receipt{}, conflict
		}
		return real(conflict)
	case answer.first && s.door == nil:
		s.t.Fatalf("finalizetest: %s: UnknownAfter needs a real door", what)
	case answer.first:
		if _, err := real(nil); err != nil {
			return finalize.Receipt{}, err
		}
	}
	if answer.err != nil {
		return finalize.Receipt{}, fmt.Errorf("%s: %w", what, answer.err)
	}
	return answer.receipt, nil
}
