package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// bencher runs cases.
type bencher struct {
	*world
	slice    time.Duration
	rounds   int
	quick    bool
	oursOnly bool
}

// bcase is a pair of ways to do one thing.
type bcase struct {
	name, peer   string
	must         float64 // the least ratio that is good enough; 0: reported only
	long         bool    // its ways take longer than a slice
	ours, theirs way
}

// way is one way to do it: a slice of work that says how many operations it did, and what they took.
type way func(ctx context.Context) (sample, error)

type sample struct {
	count   float64
	elapsed time.Duration
	cpu     time.Duration // of both this process and the server
}

// one does one operation, on the n-th aggregate of its slice, from 1.
type one func(ctx context.Context, n int64) error

// load is how operations are done in slices.
type load struct {
	workers int
	rows    int   // aggregates made for a slice; it ends early when all are used up
	final   bool  // they are final, and stay as they are from slice to slice
	lost    int   // so many of a hundred are final
	keys    int64 // aggregates of one operation; default 1
	step    int64 // operations between two looks at the clock; default 1
}

// open is a load of so many workers on open aggregates, of which a second takes at most so many.
func (b *bencher) open(workers, perSecond int) load {
	return load{workers: workers, rows: int(float64(perSecond) * b.slice.Seconds())}
}

// eight is the usual load of winners.
func (b *bencher) eight() load { return b.open(connections, 40_000) }

// each returns a way that makes aggregates and does single operations on them, on so many goroutines.
func (b *bencher) each(l load, do one) way {
	var next atomic.Int64
	return func(ctx context.Context) (sample, error) {
		if err := b.reset(ctx, l); err != nil {
			return sample{}, err
		}
		if !l.final {
			next.Store(0)
		}
		return b.loop(ctx, l, &next, do)
	}
}

// loop does operations until the slice is over.
func (b *bencher) loop(ctx context.Context, l load, next *atomic.Int64, do one) (sample, error) {
	keys, step := cmp.Or(l.keys, 1), cmp.Or(l.step, 1)
	limit := int64(l.rows) / keys
	return b.sample(ctx, func() (float64, error) {
		var done atomic.Int64
		var failed error
		var once sync.Once
		deadline := time.Now().Add(b.slice)
		var group sync.WaitGroup
		for range l.workers {
			group.Go(func() {
				for time.Now().Before(deadline) {
					last := next.Add(step)
					for n := last - step + 1; n <= last; n++ {
						if n > limit && !l.final {
							return
						}
						if err := do(ctx, (n-1)%limit+1); err != nil {
							once.Do(func() { failed = fmt.Errorf("operation %d: %w", n, err) })
							return
						}
					}
					done.Add(step)
				}
			})
		}
		group.Wait()
		return float64(done.Load() * keys), failed
	})
}

// sample measures work.
func (b *bencher) sample(ctx context.Context, work func() (float64, error)) (sample, error) {
	before, err := b.cpuTime(ctx)
	if err != nil {
		return sample{}, err
	}
	start := time.Now()
	count, err := work()
	if err != nil {
		return sample{}, err
	}
	s := sample{count: count, elapsed: time.Since(start)}
	after, err := b.cpuTime(ctx)
	s.cpu = after - before
	return s, err
}

// result is what a case came to: medians of its rounds.
type result struct {
	Name     string  `json:"name"`
	Peer     string  `json:"peer"`
	Ours     float64 `json:"ours_per_s"`
	PeerRate float64 `json:"peer_per_s"`
	// Ratio is of the rounds' own ratios: what slows a shared machine for some seconds slows both halves of a round.
	Ratio  interval `json:"ratio"`
	Rounds int      `json:"rounds"`
	Target float64  `json:"target,omitempty"`
	// What an operation takes from the processors, client's and server's together.
	OursCPU float64 `json:"ours_cpu_us"`
	PeerCPU float64 `json:"peer_cpu_us"`
}

const (
	// leastRounds are needed to say that a target is reached.
	leastRounds = 15
	// tolerance is how far the lower end of the interval may be below the target.
	tolerance = 0.03
)

// verdict says whether a target is reached; "" without a target.
func (r result) verdict() string {
	switch {
	case r.Target == 0:
		return ""
	case r.Rounds < leastRounds:
		return fmt.Sprintf("%d rounds", r.Rounds)
	case r.Ratio.Low >= r.Target-tolerance:
		return "reached"
	}
	return "no"
}

// measure alternates both ways and returns the medians.
func (b *bencher) measure(ctx context.Context, c bcase) (result, error) {
	var ours, theirs []sample
	rounds := b.rounds
	if c.long {
		rounds = min(rounds, leastRounds)
	}
	for round := range rounds + 1 {
		if b.quick && c.long && round == 0 {
			continue
		}
		type side struct {
			do      way
			samples *[]sample
		}
		pair := []side{{c.ours, &ours}, {c.theirs, &theirs}}
		if round%2 == 1 {
			slices.Reverse(pair)
		}
		for _, s := range pair {
			if b.oursOnly && s.samples == &theirs {
				continue
			}
			got, err := s.do(ctx)
			if err != nil {
				return result{}, err
			}
			if round > 0 { // the first prepares statements and fills caches
				*s.samples = append(*s.samples, got)
			}
		}
	}
	rate := func(s sample) float64 { return s.count / s.elapsed.Seconds() }
	cost := func(s sample) float64 { return float64(s.cpu.Microseconds()) / s.count }
	r := result{Name: c.name, Peer: c.peer, Target: c.must, Rounds: len(ours), Ours: median(ours, rate), OursCPU: median(ours, cost)}
	if !b.oursOnly {
		r.PeerRate, r.PeerCPU = median(theirs, rate), median(theirs, cost)
		ratios := make([]float64, len(ours))
		for i := range ours {
			ratios[i] = rate(ours[i]) / rate(theirs[i])
		}
		r.Ratio = newInterval(ratios)
	}
	return r, nil
}

func median(samples []sample, of func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	return middle(values)
}
