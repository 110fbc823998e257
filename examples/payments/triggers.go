package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// calls counts what the triggers were told.
type calls struct {
	mu        sync.Mutex
	made      int
	pending   int
	wins      map[string]int
	losses    map[string]int
	questions int64
}

// fire lets the triggers of all payments race: each payment gets its webhook twice, two polls and two timeouts, all at
// once and in any order. The webhooks of late payments come when the timeout has given them up.
func fire(ctx context.Context, s *store, settle *settlements, p *provider, o options) (*calls, error) {
	now := time.Now()
	if err := s.open(ctx, o.payments, now); err != nil {
		return nil, err
	}
	c := &calls{wins: map[string]int{}, losses: map[string]int{}}
	for _, t := range triggers() {
		c.wins[t], c.losses[t] = 0, 0
	}
	var punctual, late []func() error
	for i := range o.payments {
		id := int64(i + 1)
		for range 2 {
			webhook := func() error { return c.note("webhook")(settle.notified(ctx, id, result(id))) }
			if isLate(id) {
				late = append(late, webhook)
			} else {
				punctual = append(punctual, webhook)
			}
			punctual = append(punctual,
				func() error { return c.note("poller")(settle.poll(ctx, id)) },
				func() error { return c.note("timeout")(settle.expire(ctx, id, now)) })
		}
	}
	rng := rand.New(rand.NewPCG(uint64(o.seed), 0))
	rng.Shuffle(len(punctual), func(i, j int) { punctual[i], punctual[j] = punctual[j], punctual[i] })
	err := atOnce(punctual)
	p.late.Store(true)
	if err == nil {
		err = atOnce(late)
	}
	c.questions = p.questions.Load()
	return c, err
}

func triggers() []string { return []string{"webhook", "poller", "timeout"} }

// note takes note of what a trigger was told.
func (c *calls) note(trigger string) func(settled, error) error {
	return func(s settled, err error) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.made++
		switch {
		case errors.Is(err, errPending):
			c.pending++
			return nil
		case err != nil:
			return err
		case s.byUs:
			c.wins[trigger]++
		default:
			c.losses[trigger]++
		}
		return nil
	}
}

// atOnce runs calls sixteen at a time and returns their errors.
func atOnce(run []func() error) error {
	queue := make(chan func() error, len(run))
	for _, f := range run {
		queue <- f
	}
	close(queue)
	errs := make([]error, 16)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			for f := range queue {
				if errs[i] = f(); errs[i] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
