package inbox

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Claim is what a ClaimStore keeps of an event under a key: that a delivery is handling it, or that one has handled it.
type Claim struct {
	EventID string // the event's id, as text
	Digest  []byte // of the event's content
	Token   string // names the delivery; a store needn't return it
	Handled bool   // false: the delivery is at it
	Value   []byte // what the function returned, where Handled; nil for none, which isn't the same as an empty one
}

// ClaimStore keeps claims outside of any transaction: inboxredis.Store, or your own. Implementations MUST be safe for
// concurrent use by several processes, MUST take each step atomically, and MUST NOT hold a call much beyond the end of its
// context. An error means that the store couldn't be asked, or that what became of the step is unknown.
type ClaimStore interface {
	// Claim keeps c, for lease, unless there is a claim under key that has another token; then it changes nothing and returns
	// that one.
	Claim(ctx context.Context, key string, c Claim, lease time.Duration) (other *Claim, err error)
	// Renew keeps c for lease from now on, also if there was no claim any more. It reports false, and changes nothing, where
	// another delivery's claim is, or c was handled.
	Renew(ctx context.Context, key string, c Claim, lease time.Duration) (ours bool, err error)
	// Handle keeps c as handled, with its Value, for retention, also if there was no claim any more. It reports false, and
	// changes nothing, where another delivery's claim is.
	Handle(ctx context.Context, key string, c Claim, retention time.Duration) (ours bool, err error)
	// Release removes the claim if it has c's token and isn't handled.
	Release(ctx context.Context, key string, c Claim) error
}

// claim is one delivery's claim. The token is known before it is sent, so that one whose answer got lost can be taken back.
type claim struct {
	*Claims
	*delivery
	storeKey string
	own      Claim
}

// take claims the event, or tells what an earlier delivery did; over is false if the function must be called.
func (c *claim) take(ctx context.Context) (result Result, over bool, err error) {
	err = until(ctx, c.cfg.Wait, func() (retry bool, err error) {
		other, err := c.store.Claim(ctx, c.storeKey, c.own, c.cfg.Lease)
		if err != nil {
			c.release(ctx) // it may have been claimed
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if other == nil {
			return false, nil
		}
		r := record{key: c.key, state: claimed, id: other.EventID, digest: other.Digest, value: other.Value}
		if other.Handled {
			r.state = handled
		}
		if result, over, err = c.judge([]record{r}); over {
			return false, err
		}
		return true, ErrInProgress
	})
	return result, over, err
}

// run calls fn under the claim, and marks the event as handled or gives the claim back.
func (c *claim) run(ctx context.Context, fn ResultFunc) (value []byte, err error) {
	working, lose := context.WithCancelCause(ctx)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		c.renew(working, stop, lose)
	}()
	succeeded := false
	defer func() { // also on a panic or Goexit in fn
		close(stop)
		lose(nil)
		<-stopped
		if !succeeded {
			c.release(ctx) // else the lease ends it
			return
		}
		own := c.own
		own.Handled, own.Value = true, value
		ctx, cancel := c.detached(ctx)
		defer cancel()
		if ours, err := c.store.Handle(ctx, c.storeKey, own, c.cfg.Retention); err != nil || !ours {
			c.cfg.Logger.WarnContext(ctx, "an event was handled, but could not be marked so: a repeat may be applied again", c.attrs("error", err)...)
		}
	}()
	value, err = fn(working, c.event)
	if cause := context.Cause(working); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	succeeded = err == nil
	return value, err
}

// renew renews the claim until stop is closed, and loses it when another delivery has it, or when the store hasn't answered
// for a lease and the way fails closed.
func (c *claim) renew(ctx context.Context, stop <-chan struct{}, lose context.CancelCauseFunc) {
	ticker := time.NewTicker(c.cfg.Lease / 3)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		sent := time.Now()
		limit := sent.Add(c.cfg.Lease / 3) // a connection that has gone silent leaves time for another one
		if end := last.Add(c.cfg.Lease); !c.cfg.FailOpen && end.Before(limit) {
			limit = end
		}
		ask, cancel := context.WithDeadline(ctx, limit)
		ours, err := c.store.Renew(ask, c.storeKey, c.own, c.cfg.Lease)
		cancel()
		switch {
		case err == nil && ours:
			last = sent
		case err == nil:
			c.cfg.Logger.WarnContext(ctx, "another delivery has the claim: the event may be applied twice", c.attrs()...)
			lose(ErrClaimLost)
			return
		case time.Since(last) >= c.cfg.Lease && ctx.Err() == nil:
			c.cfg.Logger.WarnContext(ctx, "the claim could not be renewed: the event may be applied twice", c.attrs("error", err)...)
			if !c.cfg.FailOpen {
				lose(fmt.Errorf("%w: %w", ErrClaimLost, err))
				return
			}
		}
	}
}

func (c *claim) release(ctx context.Context) {
	ctx, cancel := c.detached(ctx)
	defer cancel()
	_ = c.store.Release(ctx, c.storeKey, c.own)
}

// detached is for a claim's last step, apart from the caller's context, which may be what ended the function.
func (c *claim) detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), min(c.cfg.Lease, 2*time.Second))
}
