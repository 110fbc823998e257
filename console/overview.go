package console

import (
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/outbox/relay"
)

// overviewView is the first page.
type overviewView struct {
	At            *time.Time         `json:"at"` // of the figures; null: there are none yet
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
	Name          string        `json:"name"`
	Destination   string        `json:"destination"`
	Types         []string      `json:"types"`
	Pending       int64         `json:"pending"`
	Retrying      int64         `json:"retrying"`
	Dead          int64         `json:"dead"`
	AtLeast       bool          `json:"at_least"`
	OldestSeconds float64       `json:"oldest_seconds"`
	Rate          float64       `json:"rate"`
	Unowned       int           `json:"unowned_partitions"`
	Relays        []relayView   `json:"relays"`
	Blocked       []blockedView `json:"blocked"`
	History       historyView   `json:"history"`

	PendingChart, RateChart, OldestChart *chart `json:"-"`
}

// historyView has a value for each time at which figures were taken.
type historyView struct {
	At      []time.Time `json:"at"`
	Waiting []float64   `json:"waiting"` // pending and retrying
	Rate    []float64   `json:"rate"`
	Oldest  []float64   `json:"oldest_seconds"`
}

type relayView struct {
	Name       string    `json:"name"`
	StartedAt  time.Time `json:"started_at"`
	Partitions int       `json:"partitions"`
	Published  int64     `json:"published"`
	Rate       float64   `json:"rate"`
}

type blockedView struct {
	Partition    int        `json:"partition"`
	Since        *time.Time `json:"since"`
	SinceSeconds float64    `json:"since_seconds"`
	EventID      *uuid.UUID `json:"event_id"`
	Why          string     `json:"why"`
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
	v.At, v.AgeSeconds = optional(s.latest.at), now.Sub(s.latest.at).Seconds()
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
	v := subscriptionView{Name: st.Subscription, Destination: st.Destination, Types: append([]string{}, st.Types...), Pending: st.Pending, Retrying: st.Retrying, Dead: st.Dead,
		AtLeast: st.AtLeast, OldestSeconds: st.OldestAge.Seconds(), Rate: st.Rate, Unowned: st.Unowned, Relays: []relayView{}, Blocked: []blockedView{}}
	for _, r := range st.Relays {
		v.Relays = append(v.Relays, relayView{r.Name, r.StartedAt, r.Partitions, r.Published, r.Rate})
	}
	for _, b := range st.Blocked {
		blocked := blockedView{Partition: b.Partition, Since: optional(b.Since), SinceSeconds: now.Sub(b.Since).Seconds(), Why: cut(b.Why, lineLength)}
		if b.EventID != uuid.Nil {
			blocked.EventID = &b.EventID
		}
		v.Blocked = append(v.Blocked, blocked)
	}
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
