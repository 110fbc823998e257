package finalize

import (
	"context"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/endstate-go/endstate/guard"
)

// HotConfig says when a key is hot: finalized again and again, though it is final. One call does no harm, but a loop is a bug
// of the caller's that the guard would otherwise hide. The zero value takes 30 losing calls within a minute for one.
type HotConfig struct {
	// Off turns the counting off.
	Off bool
	// Count is how many losing calls within Window make a key hot. Default 30.
	Count int
	// Window is the time in which they are counted, and how often at most a key that stays hot is reported. Default 1 minute.
	Window time.Duration
}

// HotKey is a key that was finalized again and again.
type HotKey struct {
	Ref guard.Ref
	// Count is how many calls lost within Window, in this process.
	Count int
	// Window is the time that they took.
	Window time.Duration
	// Triggers are who called, in the order in which they came first; at most eight.
	Triggers []Trigger
	// State is the terminal state that the aggregate is in.
	State string
}

const (
	// hotKeys bounds how many keys are counted at a time. A loop's key is always among the last.
	hotKeys     = 4096
	hotTriggers = 8
)

// hot counts losing calls by key.
type hot struct {
	keys   *lru.Cache[entryID, *heat] // nil: off
	count  int
	window time.Duration
}

// heat counts the losing calls for one key.
type heat struct {
	mu       sync.Mutex
	since    time.Duration
	count    int
	told     bool // in the last window, or this one
	triggers []Trigger
}

func newHot(cfg HotConfig) *hot {
	h := &hot{count: cfg.Count, window: cfg.Window}
	if !cfg.Off {
		h.keys, _ = lru.New[entryID, *heat](hotKeys) // which fails for no size above 0
	}
	return h
}

// of returns the counter of an aggregate, nil if nobody counts.
func (h *hot) of(ref guard.Ref) *heat {
	if h.keys == nil {
		return nil
	}
	if counter, ok := h.keys.Get(idOf(ref)); ok {
		return counter
	}
	counter := new(heat)
	if earlier, ok, _ := h.keys.PeekOrAdd(idOf(ref), counter); ok {
		return earlier
	}
	return counter
}

// add counts a losing call, and reports whether it is time to report the key: when it becomes hot, and then at the end of each
// window in which it still is.
func (h *hot) add(counter *heat, trigger Trigger, now time.Duration) (report HotKey, due bool) {
	counter.mu.Lock()
	defer counter.mu.Unlock()
	passed := now - counter.since
	if counter.count == 0 || passed >= h.window {
		if due = counter.told && counter.count >= h.count; due {
			report = counter.report(passed)
		}
		counter.since, counter.count, counter.told, counter.triggers = now, 0, due, counter.triggers[:0]
	}
	counter.count++
	if len(counter.triggers) < hotTriggers && !slices.Contains(counter.triggers, trigger) {
		counter.triggers = append(counter.triggers, trigger)
	}
	if !counter.told && counter.count >= h.count {
		report, due = counter.report(now-counter.since), true
		counter.told = true
	}
	return report, due
}

func (c *heat) report(window time.Duration) HotKey {
	return HotKey{Count: c.count, Window: window, Triggers: slices.Clone(c.triggers)}
}

// heated counts a losing call and reports its key if that is hot.
func (f *core) heated(ctx context.Context, counter *heat, call Call, state string, now time.Duration) {
	report, due := f.hot.add(counter, call.Trigger, now)
	if !due {
		return
	}
	report.Ref, report.State = call.Ref, state
	f.cfg.Logger.WarnContext(ctx, "finalized again and again: a caller may be in a loop",
		append(named(call.Ref), "state", state, "count", report.Count, "window", report.Window.Round(time.Millisecond), "triggers", report.Triggers)...)
	if t := f.cfg.Trace.Hot; t != nil {
		t(ctx, report)
	}
}
