package redisstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// reader is one Run of a Consumer.
type reader struct {
	*Consumer
	slots    chan struct{} // one for each event that is being handled
	handlers sync.WaitGroup
	group    sync.WaitGroup // keep

	mu       sync.Mutex
	inFlight map[string]struct{} // entries' ids

	reclaimed time.Time // when the pending entries were last looked through
	cursor    string    // where to go on with them
}

// block is how long a read waits for new entries, and so how long the end of Run may take.
const block = 500 * time.Millisecond

// round reads entries, as many as there are slots, and begins to handle them.
func (r *reader) round(ctx context.Context) error {
	free, err := r.take(ctx)
	if err != nil {
		return err
	}
	entries, err := r.read(ctx, free)
	if ctx.Err() != nil {
		entries = nil // they rest, and another member gets them
	}
	for range free - len(entries) {
		<-r.slots
	}
	for _, entry := range entries {
		r.mu.Lock()
		r.inFlight[entry.ID] = struct{}{}
		r.mu.Unlock()
		r.handlers.Go(func() {
			defer func() {
				r.mu.Lock()
				delete(r.inFlight, entry.ID)
				r.mu.Unlock()
				<-r.slots
			}()
			r.deliver(ctx, entry)
		})
	}
	return err
}

// take waits for a slot, and takes all that are free.
func (r *reader) take(ctx context.Context) (free int, err error) {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for free = 1; free < cap(r.slots); free++ {
		select {
		case r.slots <- struct{}{}:
		default:
			return free, nil
		}
	}
	return free, nil
}

// read returns entries that have rested for long enough, or new ones.
func (r *reader) read(ctx context.Context, count int) ([]redis.XMessage, error) {
	if r.cursor != "" || time.Since(r.reclaimed) >= r.cfg.RetryAfter/2 {
		entries, err := r.reclaim(ctx, count)
		if err != nil || len(entries) > 0 {
			return entries, err
		}
	}
	streams, err := r.client.XReadGroup(ctx, &redis.XReadGroupArgs{
		Group: r.cfg.Group, Consumer: r.cfg.Name, Streams: []string{r.cfg.Stream, ">"}, Count: int64(count), Block: min(block, r.cfg.RetryAfter),
	}).Result()
	if errors.Is(err, redis.Nil) { // nothing new
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return streams[0].Messages, nil
}

// reclaim returns pending entries that have rested for long enough, and buries those that were delivered too often.
func (r *reader) reclaim(ctx context.Context, count int) ([]redis.XMessage, error) {
	start := r.cursor
	if start == "" {
		start = "0-0"
		r.reclaimed = time.Now()
	}
	entries, next, err := r.client.XAutoClaim(ctx, &redis.XAutoClaimArgs{
		Stream: r.cfg.Stream, Group: r.cfg.Group, Consumer: r.cfg.Name, MinIdle: r.cfg.RetryAfter, Start: start, Count: int64(count),
	}).Result()
	if err != nil {
		return nil, err
	}
	r.cursor = next
	if next == "0-0" {
		r.cursor = ""
	}
	var alive []redis.XMessage
	for _, entry := range entries {
		pending, err := r.client.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: r.cfg.Stream, Group: r.cfg.Group, Start: entry.ID, End: entry.ID, Count: 1}).Result()
		switch {
		case err != nil:
			// The entries that were claimed rest once more.
			return alive, err
		case len(pending) == 1 && pending[0].RetryCount > int64(r.cfg.MaxDeliveries):
			if err := r.bury(ctx, entry, fmt.Errorf("it was delivered %d times", pending[0].RetryCount-1)); err != nil {
				return alive, err
			}
		default:
			alive = append(alive, entry)
		}
	}
	return alive, nil
}

// keep tells Redis that the entries which are being handled don't rest, so that no other member gets them.
func (r *reader) keep(stop <-chan struct{}) {
	ticker := time.NewTicker(r.cfg.RetryAfter / 3)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		r.mu.Lock()
		ids := slices.Collect(maps.Keys(r.inFlight))
		r.mu.Unlock()
		if len(ids) == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), ackTimeout)
		err := r.client.XClaimJustID(ctx, &redis.XClaimArgs{Stream: r.cfg.Stream, Group: r.cfg.Group, Consumer: r.cfg.Name, Messages: ids}).Err()
		cancel()
		if err != nil {
			r.cfg.Logger.Warn("entries in flight could not be kept: others may get them", "stream", r.cfg.Stream, "group", r.cfg.Group, "error", err)
		}
	}
}
