package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// latencies are those of wins at a part of the rate that saturates: calls come when their time has come, however the others
// fare, and a latency counts from then on, so that a queue shows.
type latencies struct {
	Name   string  `json:"name"`
	Peer   string  `json:"peer"`
	Ours   latency `json:"ours"`
	Theirs latency `json:"peers"`
}

// latency has quantiles in microseconds.
type latency struct {
	Rate float64 `json:"offered_per_s"`
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
}

// offered is how much of the rate that saturates is asked for.
const offered = 0.7

// lcase is a pair of ways to do one thing, so many at a time.
type lcase struct {
	name, peer   string
	callers      int
	ours, theirs one
	rate         float64 // default: as much as is offered of what saturates
}

func (b *bencher) latencies() []lcase {
	var cases []lcase
	for _, callers := range []int{1, 16, 64, 256} {
		c := lcase{fmt.Sprintf("latency%d/settle", callers), "one statement by hand for each, 8 connections", callers, b.settle(b.status, true), b.handStatusStatement, 0}
		if callers > wideConnections {
			c.peer, c.theirs = "one statement by hand for each, 64 connections", b.handOnManyConnections
		}
		cases = append(cases, c)
	}
	// What the clock of this process and its machine add.
	nothing := func(context.Context, int64) error { return nil }
	return append(cases, lcase{"latency16/nothing", "the schedule by itself", 16, nothing, nothing, 10_000})
}

// latency measures those of a case.
func (b *bencher) latency(ctx context.Context, c lcase) (latencies, error) {
	got := latencies{Name: c.name, Peer: c.peer}
	l := b.open(c.callers, 150_000)
	sides := []struct {
		do   one
		into *latency
		all  []time.Duration
	}{{c.ours, &got.Ours, nil}, {c.theirs, &got.Theirs, nil}}
	for i := range sides {
		s := &sides[i]
		if s.into.Rate = c.rate; c.rate > 0 {
			continue
		}
		saturate := b.each(l, s.do)
		var rates []float64
		for round := range 6 {
			sample, err := saturate(ctx)
			if err != nil {
				return got, err
			}
			if round > 0 {
				rates = append(rates, sample.count/sample.elapsed.Seconds())
			}
		}
		s.into.Rate = offered * middle(rates)
	}
	for round := range b.rounds {
		for i := range sides {
			s := &sides[(round+i)%2]
			took, err := b.arrivals(ctx, l, s.into.Rate, uint64(round), s.do)
			if err != nil {
				return got, err
			}
			s.all = append(s.all, took...)
		}
	}
	for _, s := range sides {
		slices.Sort(s.all)
		at := func(q float64) float64 {
			return float64(s.all[int(q*float64(len(s.all)-1))]) / float64(time.Microsecond)
		}
		s.into.P50, s.into.P99, s.into.P999 = at(0.5), at(0.99), at(0.999)
	}
	return got, nil
}

// arrivals has operations begin at random times of a slice, so many a second on average, and returns how long after its time
// each was done.
func (b *bencher) arrivals(ctx context.Context, l load, perSecond float64, seed uint64, do one) ([]time.Duration, error) {
	random := rand.New(rand.NewPCG(seed, 0))
	var schedule []time.Duration
	for at := time.Duration(0); ; {
		at += time.Duration(random.ExpFloat64() / perSecond * float64(time.Second))
		if at > b.slice || len(schedule) == l.rows {
			break
		}
		schedule = append(schedule, at)
	}
	if err := b.reset(ctx, l); err != nil {
		return nil, err
	}
	took := make([]time.Duration, len(schedule))
	arrived := make(chan int, len(schedule)) // the queue
	var failed error
	var once sync.Once
	var group sync.WaitGroup
	start := time.Now()
	group.Go(func() {
		defer close(arrived)
		for n, due := range schedule {
			sleepUntil(start.Add(due))
			arrived <- n
		}
	})
	for range l.workers {
		group.Go(func() {
			for n := range arrived {
				if err := do(ctx, int64(n)+1); err != nil {
					once.Do(func() { failed = fmt.Errorf("arrival %d: %w", n, err) })
				}
				took[n] = time.Since(start.Add(schedule[n]))
			}
		})
	}
	group.Wait()
	return took, failed
}
