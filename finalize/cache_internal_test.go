package finalize

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
)

func TestCacheForgetsWithAgeAndSize(t *testing.T) {
	c := newCache(CacheConfig{Size: 2, MaxAge: time.Minute})
	a, b, d := guard.Ref{Key: guard.Int(1)}, guard.Ref{Key: guard.Int(2)}, guard.Ref{Key: guard.Int(3)}
	c.put(a, Receipt{Won: true, Differs: true, State: "A"}, 10*time.Second, 0)
	require.Equal(t, Receipt{State: "A"}, c.get(a, 69*time.Second).receipt, "as a loser gets it")
	require.Nil(t, c.get(a, 70*time.Second), "a minute old")
	require.Nil(t, c.get(guard.Ref{Key: guard.Text("1")}, 10*time.Second), "another key")
	require.Nil(t, c.get(guard.Ref{Tenant: "acme", Key: guard.Int(1)}, 10*time.Second), "another tenant's")

	c.put(b, Receipt{}, 11*time.Second, 0)
	require.NotNil(t, c.get(a, 12*time.Second))
	c.put(d, Receipt{}, 12*time.Second, 0)
	require.Nil(t, c.get(b, 12*time.Second), "the least recently asked for")
	require.NotNil(t, c.get(a, 12*time.Second))
	require.NotNil(t, c.get(d, 12*time.Second))
}

// What a call read before a Forget may be what shall be forgotten, also when it comes to be remembered after it.
func TestForgetOutrunsACallUnderWay(t *testing.T) {
	c := newCache(CacheConfig{Size: 2, MaxAge: time.Minute})
	f := &Finalizer[any]{core: &core{cache: c}}
	began, one := c.forgets.Load(), guard.Ref{Key: guard.Int(1)}
	require.NoError(t, f.Forget(t.Context(), guard.Int(1)))
	c.put(one, Receipt{}, 0, began)
	require.Nil(t, c.get(one, 0))
	c.put(one, Receipt{}, 0, c.forgets.Load())
	require.NotNil(t, c.get(one, 0))
	require.NoError(t, f.Forget(t.Context(), guard.Int(1)))
	require.Nil(t, c.get(one, 0))
}

// gated is a database in which each call finds, once the gate is open, the state that it asks for.
type gated struct {
	database[any]
	gate <-chan struct{}
}

func (g gated) claim(_ context.Context, a *attempt) (session[any], guard.Record, error) {
	<-g.gate
	return nil, guard.Record{Final: true, State: a.State}, nil
}

// A call that comes after a Forget asks by itself, though it waits for one that may have read what shall be forgotten.
func TestForgetOutrunsACallThatOthersWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		f := &Finalizer[any]{db: gated{gate: gate}}
		f.core = newCore(Config{ClaimTimeout: time.Minute, Cache: CacheConfig{Size: 2, MaxAge: time.Minute}, Hot: HotConfig{Off: true}, guards: guard.All().(guards)}, nil)
		call := func(state string) <-chan string {
			answer := make(chan string, 1)
			go func() {
				a := &attempt{ref: guard.Ref{Key: guard.Int(1)}}
				a.State = state
				r, err := f.inTurn(t.Context(), a, nil)
				assert.NoError(t, err)
				answer <- r.State
			}()
			synctest.Wait()
			return answer
		}
		before := call("before")
		require.NoError(t, f.Forget(t.Context(), guard.Int(1)))
		own := call("after")
		close(gate)
		require.Equal(t, "before", <-before)
		require.Equal(t, "after", <-own)
	})
}

func TestHotIsToldOnceAndThenOnceAWindow(t *testing.T) {
	h := newHot(HotConfig{Count: 3, Window: time.Minute})
	key := h.of(guard.Ref{Key: guard.Int(1)})
	require.Same(t, key, h.of(guard.Ref{Key: guard.Int(1)}))
	calm := func(trigger Trigger, now time.Duration) {
		t.Helper()
		_, due := h.add(key, trigger, now)
		require.False(t, due)
	}
	told := func(trigger Trigger, now time.Duration, want HotKey) {
		t.Helper()
		got, due := h.add(key, trigger, now)
		require.True(t, due)
		require.Equal(t, want, got)
	}
	calm("a", 0)
	calm("b", 59*time.Second)
	calm("b", 60*time.Second) // a new window
	calm("b", 61*time.Second)
	told("a", 62*time.Second, HotKey{Count: 3, Window: 2 * time.Second, Triggers: []Trigger{"b", "a"}})
	for i := range 10 {
		calm(Trigger(rune('a'+i)), 70*time.Second)
	}
	told("z", 130*time.Second, HotKey{Count: 13, Window: 70 * time.Second, Triggers: []Trigger{"b", "a", "c", "d", "e", "f", "g", "h"}})
	calm("z", 131*time.Second)
	calm("z", 191*time.Second) // two calls in the last window: it has calmed down
	calm("z", 192*time.Second)
	told("z", 193*time.Second, HotKey{Count: 3, Window: 2 * time.Second, Triggers: []Trigger{"z"}})
}

func TestHotIsBounded(t *testing.T) {
	h := newHot(HotConfig{Count: 3, Window: time.Minute})
	for n := range int64(hotKeys + 10) {
		h.add(h.of(guard.Ref{Key: guard.Int(n)}), "a", 0)
	}
	require.Equal(t, hotKeys, h.keys.Len())
}
