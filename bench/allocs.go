package main

import (
	"context"
	"fmt"
	"testing"
)

// allocation is how often a call allocates in this process, the driver's part included.
type allocation struct {
	Name   string  `json:"name"`
	Ours   float64 `json:"ours"`
	Peer   float64 `json:"peer"`
	Target float64 `json:"target,omitempty"` // at most
}

func (a allocation) verdict() string {
	switch {
	case a.Target == 0:
		return ""
	case a.Ours <= a.Target:
		return "reached"
	}
	return "no"
}

func (a allocation) most() string {
	if a.Target == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f", a.Target)
}

// acase is a pair of ways to do one thing, of one operation each.
type acase struct {
	name         string
	most         float64 // that ours may allocate; 0: reported only
	load         load
	ours, theirs one
}

func (b *bencher) allocations() []acase {
	fresh, final := load{rows: 1000}, load{final: true}
	return []acase{
		{"allocs/settle", 15, fresh, b.settle(b.alone[byStatus], true), b.handStatusStatement},
		{"allocs/do", 60, fresh, b.do(b.alone[byStatus], true), b.handStatusPipelined},
		{"allocs/losing-settle", 10, final, b.settle(b.alone[byStatus], false), b.handSelect},
		{"allocs/losing-do", 0, final, b.do(b.alone[byStatus], false), b.handSelect},
		{"allocs/ledger-settle", 0, fresh, b.settle(b.alone[byLedger], true), b.handLedgerStatement},
		{"allocs/all-settle", 0, fresh, b.settle(b.alone[byBoth], true), b.handAllStatement},
		{"allocs/put-1", 0, fresh, b.put(1), b.handPutOne},
	}
}

// count counts one.
func (b *bencher) count(ctx context.Context, c acase) (allocation, error) {
	of := func(do one) (float64, error) {
		if err := b.reset(ctx, c.load); err != nil {
			return 0, err
		}
		var n int64
		var failed error
		average := testing.AllocsPerRun(500, func() {
			n++
			if err := do(ctx, n); err != nil {
				failed = err
			}
		})
		return average, failed
	}
	got := allocation{Name: c.name, Target: c.most}
	var err error
	if got.Ours, err = of(c.ours); err == nil {
		got.Peer, err = of(c.theirs)
	}
	return got, err
}
