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

// reclaim returns pending entries that have rested for long enough, and buries those that were delivered too often. What is claimed
// counts as delivered, so that is nothing else: XAUTOCLAIM would also take what this member is at work on, should Redis not have been
// told in time that it doesn't rest, and in Redis 6.2 it can't pass over an entry that is deleted.
func (r *reader) reclaim(ctx context.Context, count int) (alive []redis.XMessage, err error) {
	start := r.cursor
	if start == "" {
		start = "-"
		r.reclaimed = time.Now()
	}
	resting, err := r.client.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: r.cfg.Stream, Group: r.cfg.Group, Idle: r.cfg.RetryAfter, Start: start, End: "+", Count: int64(count)}).Result()
	if err != nil {
		return nil, err
	}
	r.cursor = ""
	if len(resting) == count {
		r.cursor = "(" + resting[count-1].ID
	}
	for _, p := range resting {
		r.mu.Lock()
		_, here := r.inFlight[p.ID]
		r.mu.Unlock()
		if here {
			continue
		}
		claimed, err := r.client.XClaim(ctx, &redis.XClaimArgs{Stream: r.cfg.Stream, Group: r.cfg.Group, Consumer: r.cfg.Name, MinIdle: r.cfg.RetryAfter, Messages: []string{p.ID}}).Result()
		switch {
		case errors.Is(err, redis.Nil): // it is deleted: Redis 7 forgets it by itself
			err = r.client.XAck(ctx, r.cfg.Stream, r.cfg.Group, p.ID).Err()
		case err == nil && len(claimed) > 0 && p.RetryCount >= int64(r.cfg.MaxDeliveries):
			r.buryWorn(ctx, claimed[0], p.RetryCount)
		case err == nil: // none where another member was faster
			alive = append(alive, claimed...)
		}
		if err != nil {
			return alive, err
		}
	}
	return alive, nil
}

// buryWorn buries an entry that was delivered too often. If that fails, it rests once more, and the others go on.
func (r *reader) buryWorn(ctx context.Context, entry redis.XMessage, times int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
	defer cancel()
	if err := r.bury(ctx, entry, fmt.Errorf("it was delivered %d times", times)); err != nil {
		r.failed(ctx, entry, err)
	}
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
