package lock

import (
	"container/list"
	"context"
	"sync"
)

// queues lets one caller of this process at a time have a key, the others wait in the order in which they came. Redis and
// Postgres have one too: of a hundred waiters in a process only the first asks the service, and hand-over within the
// process waits for nobody's timer. The zero value is ready.
type queues struct {
	mu    sync.Mutex
	byKey map[string]*queue // only keys that somebody has
}

type queue struct {
	holder  string
	waiting list.List // of *ticket
}

// ticket is a place in a queue.
type ticket struct {
	holder string
	turn   chan struct{} // closed when the key is handed over
}

// enter waits for the key, and returns the function that hands it on, which must be called once. Without wait, or when ctx
// ends first, it returns a HeldError.
func (q *queues) enter(ctx context.Context, key string, wait bool) (leave func(), err error) {
	me := &ticket{holder: holderOf(ctx)}
	q.mu.Lock()
	at := q.byKey[key]
	if at == nil {
		if q.byKey == nil {
			q.byKey = map[string]*queue{}
		}
		q.byKey[key] = &queue{holder: me.holder}
		q.mu.Unlock()
		return func() { q.leave(key) }, nil
	}
	if !wait {
		held := &HeldError{key, at.holder}
		q.mu.Unlock()
		return nil, held
	}
	me.turn = make(chan struct{})
	place := at.waiting.PushBack(me)
	q.mu.Unlock()

	select {
	case <-me.turn:
		return func() { q.leave(key) }, nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	held := &HeldError{key, at.holder}
	select {
	case <-me.turn: // it was handed over meanwhile
		q.mu.Unlock()
		q.leave(key)
	default:
		at.waiting.Remove(place)
		q.mu.Unlock()
	}
	return nil, gaveUp(ctx, held)
}

// leave hands the key on to the first who waits, or forgets it.
func (q *queues) leave(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := q.byKey[key]
	if first := at.waiting.Front(); first != nil {
		next := at.waiting.Remove(first).(*ticket)
		at.holder = next.holder
		close(next.turn)
		return
	}
	delete(q.byKey, key)
}
