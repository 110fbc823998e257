package console

import (
	"maps"
	"slices"
	"time"

	"github.com/endstate-go/endstate/outbox/relay"
)

// overviewView is the first page.
type overviewView struct {
	At            time.Time          `json:"at,omitzero"` // of the figures; absent: there are none yet
	AgeSeconds    float64            `json:"age_seconds"`
	Stale         bool               `json:"stale"` // they are older than they should be
	Problem       string             `json:"problem,omitempty"`
	Subscriptions []subscriptionView `json:"subscriptions"`
	Finalizations []finalizedView    `json:"finalizations"` // within the last hour, by trigger
	AtLeast       bool               `json:"finalizations_at_least"`
	HasLedger     bool               `json:"has_ledger"`
	Process       *watchView         `json:"process,omitempty"`
}

type subscriptionView struct {
	relay.Stats
	OldestSeconds float64     `json:"oldest_seconds"`
	History       historyView `json:"history"`

	PendingChart, RateChart, OldestChart *chart `json:"-"`
}

// historyView has a value for each time at which figures were taken.
type historyView struct {
	At      []time.Time `json:"at"`
	Waiting []float64   `json:"waiting"` // pending and retrying
	Rate    []float64   `json:"rate"`
	Oldest  []float64   `json:"oldest_seconds"`
}

type finalizedView struct {
	Trigger string  `json:"trigger"`
	Total   int64   `json:"total"`
	Minutes []int64 `json:"by_minute"` // the last sixty, the oldest first; the last one isn't over
	Chart   *chart  `json:"-"`
}

func (c *Console) overview(r *request) (any, error) {
	r.page.Title, r.page.Here = "Overview", "overview"
	if err := r.must(View, ""); err != nil {
		return nil, err
	}
	c.figures(r.Context())
	now := time.Now()
	v := overviewView{Subscriptions: []subscriptionView{}, Finalizations: []finalizedView{}, Process: c.cfg.Watch.view(now)}
	s := &c.sampler
	s.mu.Lock()
	defer s.mu.Unlock()
	v.Problem = s.problem
	if s.latest == nil {
		v.Stale = true
		return v, nil
	}
	v.At, v.AgeSeconds = s.latest.at.UTC(), now.Sub(s.latest.at).Seconds()
	v.Stale = s.problem != "" || now.Sub(s.due) > 2*c.cfg.Every
	for _, st := range s.latest.stats {
		if r.may(View, st.Subscription) {
			v.Subscriptions = append(v.Subscriptions, c.view(now, st))
		}
	}
	v.HasLedger, v.AtLeast = s.latest.hasLedger, !s.whole
	v.Finalizations = finalizations(now, s.minutes)
	return v, nil
}

// view is called while the sampler is held.
func (c *Console) view(now time.Time, st relay.Stats) subscriptionView {
	v := subscriptionView{Stats: st, OldestSeconds: st.OldestAge.Seconds()}
	h := historyView{At: []time.Time{}, Waiting: []float64{}, Rate: []float64{}, Oldest: []float64{}}
	for _, p := range c.sampler.history {
		if p.subscription == st.Subscription {
			h.At, h.Waiting, h.Rate, h.Oldest = append(h.At, p.at.UTC()), append(h.Waiting, p.pending), append(h.Rate, p.rate), append(h.Oldest, p.oldest)
		}
	}
	v.History = h
	gap := 4 * max(c.cfg.Every, 10*time.Second)
	whole := func(f float64) string { return number(int64(f)) }
	v.PendingChart = lineChart("Waiting", now, gap, h.At, h.Waiting, whole)
	v.RateChart = lineChart("Published a second", now, gap, h.At, h.Rate, func(f float64) string { return number(int64(f + 0.5)) })
	v.OldestChart = lineChart("Oldest", now, gap, h.At, h.Oldest, span)
	return v
}

func finalizations(now time.Time, minutes map[time.Time]map[string]int64) []finalizedView {
	first := now.UTC().Truncate(time.Minute).Add(-59 * time.Minute)
	byTrigger := map[string]*finalizedView{}
	for at, counts := range minutes {
		i := int(at.Sub(first) / time.Minute)
		if at.Before(first) || i > 59 {
			continue
		}
		for trigger, n := range counts {
			trigger = cut(trigger, shownLength)
			if byTrigger[trigger] == nil {
				byTrigger[trigger] = &finalizedView{Trigger: trigger, Minutes: make([]int64, 60)}
			}
			byTrigger[trigger].Minutes[i] += n
			byTrigger[trigger].Total += n
		}
	}
	list := []finalizedView{}
	for _, trigger := range slices.Sorted(maps.Keys(byTrigger)) {
		f := byTrigger[trigger]
		f.Chart = barChart("Finalized by "+line(trigger), f.Minutes)
		list = append(list, *f)
	}
	return list
}
