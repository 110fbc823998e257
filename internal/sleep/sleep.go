// Package sleep waits, unless a context ends first.
package sleep

import (
	"context"
	"time"
)

// For waits for d, not at all if d isn't positive. It returns the context's cause if ctx has ended.
func For(ctx context.Context, d time.Duration) error {
	if d <= 0 || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
