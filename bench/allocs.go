package main

import (
	"context"
	"fmt"
	"testing"
)

// allocations counts what a call allocates in this process, the driver's part included.
func (b *bencher) allocations(ctx context.Context) (string, error) {
	const calls = 500
	text := "allocations per call, with the driver's:"
	for _, c := range []struct {
		name string
		do   one
		load load
	}{
		{"Settle", b.settle(b.alone[byStatus], true), load{rows: 1000}},
		{"one statement by hand", b.handStatusStatement, load{rows: 1000}},
		{"Do", b.do(b.alone[byStatus], true), load{rows: 1000}},
		{"pipelined by hand", b.handStatusPipelined, load{rows: 1000}},
		{"losing Settle", b.settle(b.alone[byStatus], false), load{final: true}},
		{"losing Do", b.do(b.alone[byStatus], false), load{final: true}},
	} {
		if err := b.reset(ctx, c.load); err != nil {
			return "", err
		}
		var n int64
		var failed error
		average := testing.AllocsPerRun(calls, func() {
			n++
			if err := c.do(ctx, n); err != nil {
				failed = err
			}
		})
		if failed != nil {
			return "", failed
		}
		text += fmt.Sprintf(" %s %.0f,", c.name, average)
	}
	if err := b.reset(ctx, load{final: true}); err != nil {
		return "", err
	}
	again := b.do(b.status, false)
	if err := again(ctx, 1); err != nil {
		return "", err
	}
	average := testing.AllocsPerRun(calls, func() { _ = again(ctx, 1) })
	return text + fmt.Sprintf(" repeat from the cache %.0f\n", average), nil
}
