package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"
)

// The triggers.
const (
	periodic  = "periodic"
	threshold = "threshold"
	sweep     = "sweep"
	recovery  = "recovery"
	runaway   = "runaway"
)

func triggers() []string { return []string{periodic, threshold, sweep, recovery, runaway} }

// finalizer is the function that all triggers call. It returns "won", "lost" or "not ready".
type finalizer interface {
	finalize(ctx context.Context, batch, trigger string) (result string, err error)
}

// service is one process of the assessment service.
type service struct {
	*store
	options
	finalizer
}

// work is one process's share: callbacks as they arrive, then the monitors.
func work(ctx context.Context, store *store, o options, tampered tamper) error {
	s := &service{store: store, options: o, finalizer: &unguarded{store, o}}
	if o.guard == withEndstate {
		lock, closeLock, err := openLock(ctx, o)
		if err != nil {
			return err
		}
		defer closeLock()
		guarded, err := newGuarded(store, o, lock, tampered)
		if err != nil {
			return err
		}
		s.finalizer = guarded
	}
	if err := s.callbacks(ctx); err != nil {
		return err
	}
	if err := s.awaitCallbacks(ctx); err != nil {
		return err
	}
	return s.monitors(ctx)
}

// callback is one comparison's result on its way in.
type callback struct{ batch, comparison int }

// callbacks handles this process's share of all callbacks, in random order.
func (s *service) callbacks(ctx context.Context) error {
	var mine []callback
	for i := range s.batches * s.comparisons {
		if i%s.processes == max(0, s.process-1) {
			mine = append(mine, callback{i % s.batches, i / s.batches})
		}
	}
	rng := rand.New(rand.NewPCG(uint64(s.seed), uint64(s.process)))
	rng.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
	return inParallel(ctx, s.workers, mine, s.callback)
}

// stuck is about a batch whose worker dies between counting a callback and looking at the triggers: only the monitors
// finish it. In every third of them some comparisons fail, so that it never reaches the threshold.
func stuck(batch int) (stuck, failing bool) { return batch%5 == 4, batch%15 == 4 }

// lost is about an answer that never arrives. Its batch, one in ten, waits for it until the recovery gives it up.
func lost(c callback) bool { return c.batch%10 == 6 && c.comparison%3 == 0 }

func (s *service) callback(ctx context.Context, c callback) error {
	if lost(c) {
		return nil
	}
	isStuck, failing := stuck(c.batch)
	column := "done"
	if failing && c.comparison%3 == 0 {
		column = "failed"
	}
	id := batchID(c.batch)
	var p progress
	err := s.QueryRowContext(ctx, s.sql(`UPDATE batches SET `+column+` = `+column+` + 1 WHERE id = $1 RETURNING comparisons, done, failed`), id).
		Scan(&p.comparisons, &p.done, &p.failed)
	if err != nil || isStuck {
		return err
	}
	if (p.done+p.failed)%s.periodic == 0 {
		if err := s.call(ctx, id, periodic); err != nil {
			return err
		}
	}
	if p.ready(s.thresholdPercent) {
		return s.call(ctx, id, threshold)
	}
	return nil
}

// awaitCallbacks waits until every process has handled its callbacks.
func (s *service) awaitCallbacks(ctx context.Context) error {
	expected := 0
	for i := range s.batches * s.comparisons {
		if !lost(callback{i % s.batches, i / s.batches}) {
			expected++
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for seen, since := 0, time.Now(); ; {
		var handled int
		if err := s.QueryRowContext(ctx, `SELECT sum(done + failed) FROM batches`).Scan(&handled); err != nil {
			return err
		}
		switch {
		case handled >= expected: // more when a recovery is ahead
			return nil
		case handled > seen:
			seen, since = handled, time.Now()
		case time.Since(since) > patience:
			return fmt.Errorf("only %d of %d callbacks were handled, and none for %v: has a process died?", handled, expected, patience)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// patience is how long a process waits for the others.
const patience = 30 * time.Second

// monitors run at once: the sweep, the recovery, which look first and act later, and, in one process, the loop.
func (s *service) monitors(ctx context.Context) error {
	var work []func(context.Context) error
	open, err := s.openBatches(ctx)
	if err != nil {
		return err
	}
	for _, trigger := range []string{sweep, recovery} {
		work = append(work, func(ctx context.Context) error {
			for _, id := range open {
				if trigger == recovery {
					if err := s.giveUp(ctx, id); err != nil {
						return err
					}
				}
				if err := s.call(ctx, id, trigger); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if s.process <= 1 {
		work = append(work, func(ctx context.Context) error {
			for range s.loop {
				if err := s.call(ctx, batchID(0), runaway); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return inParallel(ctx, len(work), work, func(ctx context.Context, f func(context.Context) error) error { return f(ctx) })
}

// call is a trigger's call of the finalizer, and a note of what came of it.
func (s *service) call(ctx context.Context, id, trigger string) error {
	result, err := s.finalize(ctx, id, trigger)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(ctx, s.sql(`INSERT INTO trigger_calls VALUES ($1, $2, $3, $4)`), id, trigger, result, os.Getpid())
	return err
}

// giveUp counts the answers that never arrived as failed: no work is left then.
func (s *service) giveUp(ctx context.Context, id string) error {
	_, err := s.ExecContext(ctx, s.sql(`UPDATE batches SET failed = comparisons - done WHERE id = $1 AND done + failed < comparisons`), id)
	return err
}

// inParallel handles items with n goroutines and stops at the first error.
func inParallel[T any](ctx context.Context, n int, items []T, handle func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan T, len(items))
	for _, item := range items {
		queue <- item
	}
	close(queue)
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			for item := range queue {
				if ctx.Err() != nil {
					return
				}
				if err := handle(ctx, item); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}
