package finalize

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/endstate-go/endstate/guard"
)

// turns lets the calls of this process for one aggregate go to the database one at a time: the first goes, and the others wait here
// for what it learns, without a connection. When it finds or makes the aggregate final, they have their answer; when it
// fails or isn't ready, the next one goes, with its own callback.
type turns struct {
	mu   sync.Mutex
	keys map[guard.Ref][]chan turn // who waits, first come first served; a key is here while a call is under way
}

// turn is what a waiting call gets: the answer, or its turn to go.
type turn struct {
	final   bool
	receipt Receipt
}

// take waits until it is the caller's turn, or until it is answered: then final is true. Whoever got a turn must give or
// finish it.
func (t *turns) take(ctx context.Context, ref guard.Ref, timeout time.Duration) (turn, error) {
	t.mu.Lock()
	waiting, busy := t.keys[ref]
	if !busy {
		t.keys[ref] = nil
		t.mu.Unlock()
		return turn{}, nil
	}
	mine := make(chan turn, 1)
	t.keys[ref] = append(waiting, mine)
	t.mu.Unlock()

	ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrBusy)
	defer cancel()
	select {
	case got := <-mine:
		return got, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(t.keys[ref], mine)
	if i >= 0 {
		t.keys[ref] = slices.Delete(t.keys[ref], i, i+1)
	}
	t.mu.Unlock()
	if i < 0 {
		// It came at the same moment.
		got := <-mine
		if got.final {
			return got, nil
		}
		t.give(ref)
	}
	return turn{}, fmt.Errorf("waiting for another call of this process: %w", context.Cause(ctx))
}

// give gives the turn to the next who waits.
func (t *turns) give(ref guard.Ref) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next(ref)
}

func (t *turns) next(ref guard.Ref) {
	waiting := t.keys[ref]
	if len(waiting) == 0 {
		delete(t.keys, ref)
		return
	}
	waiting[0] <- turn{}
	t.keys[ref] = waiting[1:]
}

// finish answers all who wait. Those who came after a Forget must not have what was read before it: with stale, which is
// asked once nobody can come any more, they get their turns.
func (t *turns) finish(ref guard.Ref, r Receipt, stale func() bool) {
	r.Won = false
	t.mu.Lock()
	defer t.mu.Unlock()
	if stale() {
		t.next(ref)
		return
	}
	for _, c := range t.keys[ref] {
		c <- turn{true, r}
	}
	delete(t.keys, ref)
}

// inTurn runs a call when no other call of this process for its key is under way, unless that has the answer. What is
// learnt is remembered. A panic or Goexit goes to the call whose turn it is, and to no other.
func (f *core) inTurn(ctx context.Context, a *attempt, run func() (Receipt, error)) (r Receipt, err error) {
	t, err := f.turns.take(ctx, a.ref, f.cfg.ClaimTimeout)
	if err != nil || t.final {
		return t.receipt, err
	}
	forgets, final := f.cache.forgets.Load(), false
	defer func() {
		if final {
			f.turns.finish(a.ref, r, func() bool { return f.cache.forgets.Load() != forgets })
		} else {
			f.turns.give(a.ref)
		}
	}()
	r, err = run()
	if final = err == nil; final {
		f.cache.put(a.ref, r, f.now(), forgets)
	}
	return r, err
}
