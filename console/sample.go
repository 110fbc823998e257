package console

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox/relay"
)

// sampler takes the overview's figures, once for all that look at it, and keeps those of the last hour.
type sampler struct {
	taking sync.Mutex // held while a sample is taken

	mu      sync.Mutex
	latest  *sample
	due     time.Time
	problem string // of the last try; empty: it succeeded
	history []point
	minutes map[time.Time]map[string]int64 // finalizations, by minute and trigger
	whole   bool
}

// sample is what was seen at a time.
type sample struct {
	at        time.Time
	stats     []relay.Stats
	hasLedger bool
}

// point is one subscription's figures at a time, for charts.
type point struct {
	at           time.Time
	subscription string
	pending      float64
	rate         float64
	oldest       float64 // seconds
}

// kept is how long points are kept, and maxPoints how many.
const (
	kept      = time.Hour
	maxPoints = 20_000
	// pause is how many times as long as a sample took it is until the next one at least.
	pause = 100
	// patience is how long a request waits for the database.
	patience = 15 * time.Second
	// retry is how long after a sample that failed the next one is tried at the latest, unless Config.Every is longer: it may have been
	// over a connection that had gone silent.
	retry = 30 * time.Second
)

// Run takes the overview's figures until ctx ends, so that there is an hour of them when somebody comes. Without it they are
// taken while somebody looks.
func (c *Console) Run(ctx context.Context) error {
	for {
		c.figures(ctx)
		c.sampler.mu.Lock()
		wait := time.Until(c.sampler.due)
		c.sampler.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(wait, c.cfg.Every/10)):
		}
	}
}

// figures sees to it that there is a sample that isn't older than need be. One request takes it; others go on with the last one.
func (c *Console) figures(ctx context.Context) {
	s := &c.sampler
	s.mu.Lock()
	first, due := s.latest == nil, time.Now().After(s.due)
	s.mu.Unlock()
	if !due {
		return
	}
	if first {
		s.taking.Lock()
	} else if !s.taking.TryLock() {
		return
	}
	defer s.taking.Unlock()
	s.mu.Lock()
	due = time.Now().After(s.due) // nobody else has taken one meanwhile
	s.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience) // who goes away leaves it to the others
	defer cancel()
	begun := time.Now()
	taken, err := c.take(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := pause * time.Since(begun)
	if err != nil {
		wait = min(wait, retry)
	}
	s.due = time.Now().Add(max(c.cfg.Every, wait))
	if err != nil {
		c.cfg.Logger.ErrorContext(ctx, "console: no figures", "error", err)
		s.problem = "The database did not answer."
		return
	}
	s.problem, s.latest = "", taken
	for _, st := range taken.stats {
		s.history = append(s.history, point{taken.at, st.Subscription, float64(st.Pending + st.Retrying), st.Rate, st.OldestAge.Seconds()})
	}
	s.history = slices.DeleteFunc(s.history, func(p point) bool { return p.at.Before(taken.at.Add(-kept)) })
	s.history = s.history[max(0, len(s.history)-maxPoints):]
}

func (c *Console) take(ctx context.Context) (*sample, error) {
	stats, err := c.admin.Stats(ctx)
	if err != nil {
		return nil, err
	}
	taken := &sample{at: time.Now(), stats: stats}
	// A minute that was over at the last sample is counted for good.
	s := &c.sampler
	s.mu.Lock()
	since := taken.at.Truncate(time.Minute).Add(-kept)
	if s.latest != nil && s.latest.hasLedger && s.latest.at.After(since) {
		since = s.latest.at.Add(-lateness).Truncate(time.Minute)
	}
	s.mu.Unlock()
	err = c.db.read(ctx, func(q endstate.Querier) (err error) {
		if taken.hasLedger, err = c.db.has(ctx, q, c.cfg.Ledger.Schema, c.cfg.Ledger.Table); err != nil || !taken.hasLedger {
			return err
		}
		counts, whole, err := c.cfg.Ledger.Minutes(ctx, q, since)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.minutes == nil {
			s.minutes, s.whole = map[time.Time]map[string]int64{}, true
		}
		maps.Copy(s.minutes, counts)
		s.whole = s.whole && whole
		maps.DeleteFunc(s.minutes, func(at time.Time, _ map[string]int64) bool {
			return at.Before(taken.at.Truncate(time.Minute).Add(-kept))
		})
		return nil
	})
	return taken, err
}

// lateness is how long after its entry's time a finalization may commit and still be counted in its minute.
const lateness = 10 * time.Second
