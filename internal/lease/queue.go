package lease

import (
	"container/list"
	"context"
	"sync"
)

// Queues lets one caller of this process at a time have a key, the others wait in the order in which they came. Locks of a
// service have one too: of a hundred waiters in a process only the first asks the service, and hand-over within the process
// waits for nobody's timer. The zero value is ready.
type Queues struct {
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

// Enter waits for the key, which Leave hands on. Without wait, or when ctx ends first, the caller doesn't have it, and holder is
// the name of who does.
func (q *Queues) Enter(ctx context.Context, key string, wait bool) (entered bool, holder string) {
	me := Holder(ctx)
	q.mu.Lock()
	at := q.byKey[key]
	if at == nil {
		if q.byKey == nil {
			q.byKey = map[string]*queue{}
		}
		q.byKey[key] = &queue{holder: me}
		q.mu.Unlock()
		return true, ""
	}
	if !wait {
		defer q.mu.Unlock()
		return false, at.holder
	}
	turn := make(chan struct{})
	place := at.waiting.PushBack(&ticket{me, turn})
	q.mu.Unlock()

	select {
	case <-turn:
		return true, ""
	case <-ctx.Done():
	}
	q.mu.Lock()
	holder = at.holder
	select {
	case <-turn: // it was handed over meanwhile
		q.mu.Unlock()
		q.Leave(key)
	default:
		at.waiting.Remove(place)
		q.mu.Unlock()
	}
	return false, holder
}

// Leave hands the key on to the first who waits, or forgets it. Whoever entered calls it once.
func (q *Queues) Leave(key string) {
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

// Len returns how many keys callers of this process hold or wait for.
func (q *Queues) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.byKey)
}
