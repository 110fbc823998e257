package main

import (
	"context"
	"sync/atomic"
	"time"
)

// provider is the payment provider, which knows what becomes of a payment: every fourth is declined, and of every sixth it
// learns only when the time is over.
type provider struct {
	questions atomic.Int64
	late      atomic.Bool // it has learnt of the late ones
}

func isLate(id int64) bool { return id%6 == 0 }

func result(id int64) state {
	if id%4 == 0 {
		return declined
	}
	return captured
}

// ask answers after a while, or errPending.
func (p *provider) ask(ctx context.Context, id int64) (state, error) {
	p.questions.Add(1)
	select {
	case <-time.After(3 * time.Millisecond):
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if isLate(id) && !p.late.Load() {
		return "", errPending
	}
	return result(id), nil
}
