package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// bencher runs cases.
type bencher struct {
	world
	slice    time.Duration
	rounds   int
	oursOnly bool
}

// one does one operation on the n-th aggregate of its slice.
type one func(ctx context.Context, n int64) error

// bcase is a pair of ways to do one thing.
type bcase struct {
	name, peer, must string
	workers          int
	rows             int // aggregates made for a slice; it ends early when all are used up
	final            bool
	ours, theirs     one
}

type result struct {
	Name     string  `json:"name"`
	Peer     string  `json:"peer"`
	Ours     float64 `json:"ours_per_s"`
	PeerRate float64 `json:"peer_per_s"`
	Ratio    float64 `json:"ratio"`
	must     string
}

// measure alternates both ways and returns the median rates.
func (b *bencher) measure(ctx context.Context, c bcase) (result, error) {
	var ours, theirs []float64
	for round := range b.rounds + 1 {
		pair := []struct {
			do    one
			rates *[]float64
		}{{c.ours, &ours}, {c.theirs, &theirs}}
		if round%2 == 1 {
			slices.Reverse(pair)
		}
		for _, p := range pair {
			if b.oursOnly && p.rates == &theirs {
				continue
			}
			if err := b.reset(ctx, c); err != nil {
				return result{}, err
			}
			rate, err := b.rate(ctx, c, p.do)
			if err != nil {
				return result{}, err
			}
			if round > 0 { // the first prepares statements and fills caches
				*p.rates = append(*p.rates, rate)
			}
		}
	}
	r := result{Name: c.name, Peer: c.peer, Ours: median(ours), PeerRate: median(theirs), must: c.must}
	if r.PeerRate > 0 {
		r.Ratio = r.Ours / r.PeerRate
	}
	return r, nil
}

func (b *bencher) rate(ctx context.Context, c bcase, do one) (float64, error) {
	var n, done atomic.Int64
	var failed error
	var once sync.Once
	start := time.Now()
	deadline := start.Add(b.slice)
	var group sync.WaitGroup
	for range c.workers {
		group.Go(func() {
			for time.Now().Before(deadline) {
				i := n.Add(1)
				if i > int64(c.rows) {
					if !c.final {
						return
					}
					i = i%int64(c.rows) + 1
				}
				if err := do(ctx, i); err != nil {
					once.Do(func() { failed = fmt.Errorf("aggregate %d: %w", i, err) })
					return
				}
				done.Add(1)
			}
		})
	}
	group.Wait()
	return float64(done.Load()) / time.Since(start).Seconds(), failed
}

func median(rates []float64) float64 {
	if len(rates) == 0 {
		return 0
	}
	slices.Sort(rates)
	return rates[len(rates)/2]
}
