package lockredis

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"
)

// wakeUps tells waiters that a lock was given back, over one subscription that all of this client's waiters share: a
// channel for each key that somebody waits for. It is a hint, since messages can get lost: waiters ask by themselves too.
// There is one waiter for a key at most, the first of its queue.
type wakeUps struct {
	client redis.UniversalClient

	mu      sync.Mutex
	waiters map[string]chan struct{} // by the lock's name, which is the channel's too
	pubsub  *redis.PubSub            // from the first waiter on
	reading sync.WaitGroup

	telling sync.Mutex // held while Redis is informed of a change
}

// await registers the waiter for a name. Its channel gets a signal for each message, and one when it is subscribed, since
// the lock may have been given back before that.
func (w *wakeUps) await(name string) (woken <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pubsub == nil {
		w.waiters = map[string]chan struct{}{}
		w.pubsub = w.client.Subscribe(context.Background()) // which sends nothing yet
		messages := w.pubsub.ChannelWithSubscriptions()
		w.reading.Go(func() { w.read(messages) })
	}
	c := make(chan struct{}, 1)
	w.waiters[name] = c
	return c
}

func (w *wakeUps) forget(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiters, name)
}

// tell has the subscription follow whether somebody waits for a name. Several of these may overlap, in any order: each
// does what is right when its turn comes.
func (w *wakeUps) tell(ctx context.Context, name string) {
	w.telling.Lock()
	defer w.telling.Unlock()
	w.mu.Lock()
	_, waits := w.waiters[name]
	w.mu.Unlock()
	// When Redis is away, the client subscribes anew once it is back.
	if waits {
		_ = w.pubsub.Subscribe(ctx, name)
	} else {
		_ = w.pubsub.Unsubscribe(ctx, name)
	}
}

// read hands messages on until the subscription is closed.
func (w *wakeUps) read(messages <-chan any) {
	for m := range messages {
		switch m := m.(type) {
		case *redis.Subscription:
			if m.Kind == "subscribe" {
				w.wake(m.Channel)
			}
		case *redis.Message:
			w.wake(m.Channel)
		}
	}
}

func (w *wakeUps) wake(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.waiters[name] <- struct{}{}:
	default: // it has a signal already, or nobody waits any more
	}
}

// close ends the subscription and waits for its reader.
func (w *wakeUps) close() error {
	w.mu.Lock()
	pubsub := w.pubsub
	w.mu.Unlock()
	if pubsub == nil {
		return nil
	}
	err := pubsub.Close()
	w.reading.Wait()
	return err
}

// awaitRelease subscribes to a lock's releases. The waiter doesn't wait for that: until it is done, and if it fails, it polls.
func (l *Lock) awaitRelease(name string) (woken <-chan struct{}, stop func()) {
	tell := func() {
		l.running.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), l.cfg.Timeout)
			defer cancel()
			l.wakeUps.tell(ctx, name)
		})
	}
	woken = l.wakeUps.await(name)
	tell()
	return woken, func() {
		l.wakeUps.forget(name)
		tell()
	}
}
