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
	slice  time.Duration
	rounds int
	// drainEvents is how many events a drain takes out of the outbox.
	drainEvents int
	oursOnly    bool
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
	// What an operation costs both processors, client's and server's, in microseconds.
	oursCPU, peerCPU float64
}

// side is one of the two ways, and what its slices measured.
type side struct {
	do          one
	rates, cpus []float64
}

// measure alternates both ways and returns the median rates.
func (b *bencher) measure(ctx context.Context, c bcase) (result, error) {
	ours, theirs := &side{do: c.ours}, &side{do: c.theirs}
	for round := range b.rounds + 1 {
		pair := []*side{ours, theirs}
		if round%2 == 1 {
			slices.Reverse(pair)
		}
		for _, s := range pair {
			if b.oursOnly && s == theirs {
				continue
			}
			if err := b.reset(ctx, c); err != nil {
				return result{}, err
			}
			rate, cpu, err := b.rate(ctx, c, s.do)
			if err != nil {
				return result{}, err
			}
			if round > 0 { // the first prepares statements and fills caches
				s.rates = append(s.rates, rate)
				s.cpus = append(s.cpus, cpu)
			}
		}
	}
	r := result{Name: c.name, Peer: c.peer, must: c.must,
		Ours: median(ours.rates), PeerRate: median(theirs.rates), oursCPU: median(ours.cpus), peerCPU: median(theirs.cpus)}
	if r.PeerRate > 0 {
		r.Ratio = r.Ours / r.PeerRate
	}
	return r, nil
}

// rate runs one slice, and returns operations a second and the microseconds of processor time that each took.
func (b *bencher) rate(ctx context.Context, c bcase, do one) (rate, cpu float64, err error) {
	var n, done atomic.Int64
	var failed error
	var once sync.Once
	before, err := b.cpuTime(ctx)
	if err != nil {
		return 0, 0, err
	}
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
	elapsed := time.Since(start)
	after, err := b.cpuTime(ctx)
	if err != nil {
		return 0, 0, err
	}
	count := float64(done.Load())
	return count / elapsed.Seconds(), float64((after - before).Nanoseconds()) / 1000 / count, failed
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}
