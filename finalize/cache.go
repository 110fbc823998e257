package finalize

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// CacheConfig says how many terminal aggregates a Finalizer remembers, and for how long. The zero value remembers the last
// 10,000 for ten minutes.
//
// Terminal states are absorbing, so a repeat on a key that is known to be final is answered in this process with the full
// receipt: no transaction, no lock, no connection. What is remembered is committed: the receipts of calls that won and whose
// COMMIT was answered (or resolved), and what losers read. Nothing seen inside a caller's transaction is remembered, and DoTx
// doesn't ask the cache.
//
// The cache can't know of rows that are deleted, restored from a backup or lost in a failover behind the finalizer's back:
// then it answers with the old receipt until MaxAge has passed, or Forget is called in each process. A repeat that it answers
// is not checked either: neither that the database is there, nor, unless Config.CompareEvents is set, that the events of a
// Settle could be stored.
type CacheConfig struct {
	// Off turns the cache off: every call asks the database.
	Off bool
	// Size is how many aggregates are remembered; the least recently asked for goes first. An entry takes about half a
	// kilobyte. Default 10,000.
	Size int
	// MaxAge is for how long an answer is believed. Default 10 minutes.
	MaxAge time.Duration
}

// cache remembers terminal aggregates. It is golang-lru's plain cache with an age for each entry: that package's own expiring
// one starts a goroutine which nothing can stop.
type cache struct {
	entries *lru.Cache[entryID, *terminal] // nil: off
	maxAge  time.Duration
	forgets atomic.Uint64
}

// entryID tells the aggregates of one finalizer apart, in less than a guard.Ref takes to hash.
type entryID struct {
	tenant string
	key    guard.Key
}

func idOf(ref guard.Ref) entryID { return entryID{ref.Tenant, ref.Key} }

// terminal is what is known of a terminal aggregate: the receipt of a loser.
type terminal struct {
	receipt Receipt
	since   time.Duration
	heat    atomic.Pointer[heat] // nil until the first repeat, which most never have
}

func newCache(cfg CacheConfig) *cache {
	c := &cache{maxAge: cfg.MaxAge}
	if !cfg.Off {
		c.entries, _ = lru.New[entryID, *terminal](cfg.Size) // which fails for no size above 0
	}
	return c
}

// get returns what is known of an aggregate, or nil. The cache must be on.
func (c *cache) get(ref guard.Ref, now time.Duration) *terminal {
	known, ok := c.entries.Get(idOf(ref))
	if !ok || now-known.since >= c.maxAge {
		return nil
	}
	return known
}

// put remembers the receipt of a call that began after this many forgets. What was read before a later Forget may be what
// shall be forgotten.
func (c *cache) put(ref guard.Ref, r Receipt, now time.Duration, forgets uint64) {
	if c.entries == nil || c.forgets.Load() != forgets {
		return
	}
	r.Won, r.Differs = false, false
	known := &terminal{receipt: r, since: now}
	c.entries.Add(idOf(ref), known)
	if c.forgets.Load() != forgets {
		c.entries.Remove(idOf(ref))
	}
}

// clear forgets all.
func (c *cache) clear() {
	c.forgets.Add(1)
	if c.entries != nil {
		c.entries.Purge()
	}
}

// Forget drops what this process remembers of an aggregate (of ctx's tenant, where there are tenants), so that the next call
// asks the database. Call it after you deleted or restored an aggregate behind the finalizer's back, in every process; a call
// that is under way doesn't bring the old answer back. The only error is that of Config.Tenant, which wraps ErrTenant.
func (f *Finalizer[Tx]) Forget(ctx context.Context, key guard.Key) error {
	ref, err := f.ref(ctx, key)
	if err != nil {
		return err
	}
	f.cache.forgets.Add(1)
	if f.cache.entries != nil {
		f.cache.entries.Remove(idOf(ref))
	}
	return nil
}

// known answers a repeat: a call for an aggregate that is known to be terminal.
func (f *core) known(ref guard.Ref) (known *terminal, now time.Duration) {
	if f.cache.entries != nil {
		now = f.now()
		known = f.cache.get(ref, now)
	}
	return known, now
}

// now is the time since the finalizer was made, by a clock that nobody sets.
func (f *core) now() time.Duration { return time.Since(f.made) }

// turns lets the calls of this process for one aggregate go to the database one at a time: the first goes, and the others wait here
// for what it learns, without a connection. When it finds or makes the aggregate final, they have their answer; when it
// fails or isn't ready, the next one goes, with its own callback.
type turns struct {
	mu   sync.Mutex
	keys map[entryID][]chan turn // who waits, first come first served; a key is here while a call is under way
}

// turn is what a waiting call gets: the answer, or its turn to go.
type turn struct {
	final   bool
	receipt Receipt
}

// take waits until it is the caller's turn, or until it is answered: then final is true. Whoever got a turn must give or
// finish it.
func (t *turns) take(ctx context.Context, id entryID, timeout time.Duration) (turn, error) {
	t.mu.Lock()
	waiting, busy := t.keys[id]
	if !busy {
		t.keys[id] = nil
		t.mu.Unlock()
		return turn{}, nil
	}
	mine := make(chan turn, 1)
	t.keys[id] = append(waiting, mine)
	t.mu.Unlock()

	ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrBusy)
	defer cancel()
	select {
	case got := <-mine:
		return got, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(t.keys[id], mine)
	if i >= 0 {
		t.keys[id] = slices.Delete(t.keys[id], i, i+1)
	}
	t.mu.Unlock()
	if i < 0 {
		// It came at the same moment.
		got := <-mine
		if got.final {
			return got, nil
		}
		t.give(id)
	}
	return turn{}, fmt.Errorf("waiting for another call of this process: %w", context.Cause(ctx))
}

// give gives the turn to the next who waits.
func (t *turns) give(id entryID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next(id)
}

func (t *turns) next(id entryID) {
	waiting := t.keys[id]
	if len(waiting) == 0 {
		delete(t.keys, id)
		return
	}
	waiting[0] <- turn{}
	t.keys[id] = waiting[1:]
}

// finish answers all who wait. Those who came after a Forget must not have what was read before it: with stale, which is
// asked once nobody can come any more, they get their turns.
func (t *turns) finish(id entryID, r Receipt, stale func() bool) {
	r.Won = false
	t.mu.Lock()
	defer t.mu.Unlock()
	if stale() {
		t.next(id)
		return
	}
	for _, c := range t.keys[id] {
		c <- turn{true, r}
	}
	delete(t.keys, id)
}

// inTurn runs a call when no other call of this process for its key is under way, unless that has the answer. What is
// learnt is remembered. A panic or Goexit goes to the call whose turn it is, and to no other.
func (f *Finalizer[Tx]) inTurn(ctx context.Context, a *attempt, fn Func[Tx]) (r Receipt, err error) {
	t, err := f.turns.take(ctx, idOf(a.ref), f.cfg.ClaimTimeout)
	if err != nil || t.final {
		return t.receipt, err
	}
	forgets, final := f.cache.forgets.Load(), false
	defer func() {
		if final {
			f.turns.finish(idOf(a.ref), r, func() bool { return f.cache.forgets.Load() != forgets })
		} else {
			f.turns.give(idOf(a.ref))
		}
	}()
	a.look = f.losses.prevail()
	r, err = f.retry(ctx, a, fn)
	if final = err == nil; final {
		f.losses.note(!r.Won)
		f.cache.put(a.ref, r, f.now(), forgets)
	}
	return r, err
}

// retry runs a whole transaction again for as long as the database breaks it off and it is known not to have committed.
func (f *Finalizer[Tx]) retry(ctx context.Context, a *attempt, fn Func[Tx]) (Receipt, error) {
	var pause backoff.BackOff
	var began time.Time
	for {
		a.number++
		r, err := f.once(ctx, a, fn)
		if err == nil || !(sqltx.Conflicted(err) || errors.Is(err, errGone) || errors.Is(err, errStale)) || errors.Is(err, ErrOutcomeUnknown) {
			return r, err
		}
		if ctx.Err() != nil {
			return r, withCause(ctx, err)
		}
		if pause == nil {
			pause, began = f.backoff(), time.Now()
		}
		if sqltx.Busy(err) {
			// That is a wait for whoever writes, as others wait for a row's lock.
			if time.Since(began) >= f.cfg.ClaimTimeout {
				return r, fmt.Errorf("finalize: %v: gave up after %d attempts: %w: %w", a.ref, a.number, errSQLiteBusy, err)
			}
		} else if a.number >= f.cfg.MaxAttempts {
			return r, fmt.Errorf("finalize: %v: gave up after %d attempts: %w", a.ref, a.number, err)
		}
		wait := pause.NextBackOff()
		f.retrying(ctx, a, err, wait)
		if sleep.For(ctx, wait) != nil {
			return Receipt{}, errors.Join(context.Cause(ctx), err)
		}
	}
}

// once is one transaction of a call, or one statement.
func (f *Finalizer[Tx]) once(ctx context.Context, a *attempt, fn Func[Tx]) (Receipt, error) {
	joined, ok := f.db.(settler)
	if lost := a.lost; lost != nil {
		a.lost = nil // if it turns out that it wasn't settled, it is from the start
		if ok {
			return joined.resume(ctx, f.core, a, lost)
		}
		return f.resolve(ctx, a, f.look, fmt.Errorf("settled with others: %w", lost))
	}
	if ok && fn == nil {
		if r, handled, err := joined.settle(ctx, f.core, a); handled {
			return r, err
		}
	}
	return f.attempt(ctx, a, func() (session[Tx], guard.Record, error) { return f.db.claim(ctx, a) }, fn)
}

// A loser that writes first finds nothing to write, and reads the winner's record by a second statement, or rolls back what it began
// as well. One that looks first is done with a SELECT, but a winner that looks first pays for it. So calls look first while most of
// the finalizer's latest ones that asked the database have lost.

// losses are the share of losing calls among the latest.
type losses struct{ share atomic.Int32 } // of allLost; each call counts for a sixteenth of what was before

const allLost = 1 << 12

// note counts a call. What calls at the same moment overwrite of each other matters to nobody.
func (l *losses) note(lost bool) {
	share, to := l.share.Load(), int32(0)
	if lost {
		to = allLost
	}
	l.share.Store(share + (to-share)/16)
}

// prevail reports whether most calls lose.
func (l *losses) prevail() bool { return l.share.Load() > allLost/2 }
