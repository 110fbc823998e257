package console

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/endstate-go/endstate/finalize"
)

// Watch collects what only a process knows of its finalizations: who won, who lost, how often, and which keys are hot. Give its
// Trace to the process's finalizers, and it to Config.Watch. The zero Watch is ready for use, and safe for concurrent use.
type Watch struct {
	mu      sync.Mutex
	minutes [60]watched // by the minute since 1970, modulo 60
	hot     []hotView   // the latest first
}

// watched is what was counted in one minute.
type watched struct {
	number int64
	counts map[watchKey]calls
}

type watchKey struct{ aggregate, trigger string }

type calls struct{ won, lost, failed int64 }

// The limits on what a Watch keeps.
const (
	maxWatched = 200 // aggregates' types and triggers, in a minute
	maxHot     = 50
)

// Trace returns callbacks that count, and then call those of next, which may be nil.
func (w *Watch) Trace(next *finalize.Trace) *finalize.Trace {
	t := finalize.Trace{}
	if next != nil {
		t = *next
	}
	won, lost, failed, hot := t.Won, t.Lost, t.Failed, t.Hot
	t.Won = func(ctx context.Context, call finalize.Call, r finalize.Receipt) {
		w.count(time.Now(), call, calls{won: 1})
		if won != nil {
			won(ctx, call, r)
		}
	}
	t.Lost = func(ctx context.Context, call finalize.Call, r finalize.Receipt) {
		w.count(time.Now(), call, calls{lost: 1})
		if lost != nil {
			lost(ctx, call, r)
		}
	}
	t.Failed = func(ctx context.Context, call finalize.Call, err error) {
		w.count(time.Now(), call, calls{failed: 1})
		if failed != nil {
			failed(ctx, call, err)
		}
	}
	t.Hot = func(ctx context.Context, key finalize.HotKey) {
		w.heat(time.Now(), key)
		if hot != nil {
			hot(ctx, key)
		}
	}
	return &t
}

func (w *Watch) count(now time.Time, call finalize.Call, n calls) {
	number := now.Unix() / 60
	key := watchKey{call.Ref.Aggregate, string(call.Trigger)}
	w.mu.Lock()
	defer w.mu.Unlock()
	m := &w.minutes[number%int64(len(w.minutes))]
	if m.number != number {
		*m = watched{number, map[watchKey]calls{}}
	}
	had, known := m.counts[key]
	if !known && len(m.counts) >= maxWatched {
		key = watchKey{"others", "others"}
		had = m.counts[key]
	}
	m.counts[key] = calls{had.won + n.won, had.lost + n.lost, had.failed + n.failed}
}

func (w *Watch) heat(now time.Time, key finalize.HotKey) {
	view := hotView{At: now.UTC(), AggregateType: key.Ref.Aggregate, AggregateID: key.Ref.Key.String(), Count: key.Count, WindowSeconds: key.Window.Seconds(), State: key.State}
	for _, t := range key.Triggers {
		view.Triggers = append(view.Triggers, string(t))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hot = slices.DeleteFunc(w.hot, func(h hotView) bool {
		return h.AggregateType == view.AggregateType && h.AggregateID == view.AggregateID
	})
	w.hot = append([]hotView{view}, w.hot[:min(len(w.hot), maxHot-1)]...)
}

// watchView is what a Watch has of the last hour.
type watchView struct {
	Triggers []triggerView `json:"triggers"`
	Hot      []hotView     `json:"hot"`
}

type triggerView struct {
	AggregateType string `json:"aggregate_type"`
	Trigger       string `json:"trigger"`
	Won           int64  `json:"won"`
	Lost          int64  `json:"lost"`
	Failed        int64  `json:"failed"`
}

type hotView struct {
	At            time.Time `json:"at"`
	AggregateType string    `json:"aggregate_type"`
	AggregateID   string    `json:"aggregate_id"`
	Count         int       `json:"count"`
	WindowSeconds float64   `json:"window_seconds"`
	Triggers      []string  `json:"triggers"`
	State         string    `json:"state"`
}

func (w *Watch) view(now time.Time) *watchView {
	if w == nil {
		return nil
	}
	v := &watchView{Triggers: []triggerView{}}
	sums := map[watchKey]calls{}
	w.mu.Lock()
	for _, m := range w.minutes {
		if m.number > now.Unix()/60-int64(len(w.minutes)) {
			for key, n := range m.counts {
				had := sums[key]
				sums[key] = calls{had.won + n.won, had.lost + n.lost, had.failed + n.failed}
			}
		}
	}
	v.Hot = append([]hotView{}, w.hot...)
	w.mu.Unlock()
	for _, key := range slices.SortedFunc(maps.Keys(sums), func(a, b watchKey) int {
		return cmp.Or(cmp.Compare(sums[b].lost, sums[a].lost), cmp.Compare(a.aggregate, b.aggregate), cmp.Compare(a.trigger, b.trigger))
	}) {
		n := sums[key]
		v.Triggers = append(v.Triggers, triggerView{key.aggregate, key.trigger, n.won, n.lost, n.failed})
	}
	return v
}
