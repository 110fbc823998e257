package inbox

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// A claim's life in Redis, at one key, decided by the scripts:
//
//	(none) ── claim ──> claimed ── handle ──> handled ── Retention ──> (none)
//	                      │  ↑ renew
//	                      └── release, or Lease after the process died ──> (none)
//
// Each step but the first names the claim's token, and does nothing where another delivery's is.
var (
	//go:embed claim.lua
	claimText string
	//go:embed renew.lua
	renewText string
	//go:embed handle.lua
	handleText string
	//go:embed release.lua
	releaseText string

	claimScript   = redis.NewScript(claimText)
	renewScript   = redis.NewScript(renewText)
	handleScript  = redis.NewScript(handleText)
	releaseScript = redis.NewScript(releaseText)
)

// claim is one delivery's claim. The token is known before it is sent, so that one whose answer got lost can be taken back.
type claim struct {
	*Redis
	*delivery
	redisKey string
	token    string
}

// take claims the event, or tells what an earlier delivery did; over is false if the function must be called.
func (c *claim) take(ctx context.Context) (result Result, over bool, err error) {
	err = until(ctx, c.cfg.Wait, func() (retry bool, err error) {
		reply, err := claimScript.Run(ctx, c.client, []string{c.redisKey}, c.token, c.event.ID.String(), c.digest, c.cfg.Lease.Milliseconds()).Slice()
		if err != nil {
			_, _ = c.end(ctx, releaseScript, c.token) // it may have been claimed
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if len(reply) == 0 {
			return false, nil
		}
		r, err := parseRecord(c.key, reply)
		if err != nil {
			return false, err
		}
		if result, over, err = c.judge([]record{r}); over {
			return false, err
		}
		return true, ErrInProgress
	})
	return result, over, err
}

// parseRecord reads what claim.lua returns of another delivery.
func parseRecord(key string, reply []any) (record, error) {
	var fields [4]string
	for i := range min(len(reply), len(fields)) {
		fields[i], _ = reply[i].(string)
	}
	r := record{key: key, state: fields[0], id: fields[1], digest: []byte(fields[2])}
	if len(reply) == len(fields) && reply[3] != nil {
		r.value = []byte(fields[3])
	}
	if r.state != claimed && r.state != handled {
		return r, fmt.Errorf("inbox: Redis returned a record in state %q", r.state)
	}
	return r, nil
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
			_, _ = c.end(ctx, releaseScript, c.token) // else the lease ends it
			return
		}
		args := []any{c.token, c.event.ID.String(), c.digest, c.cfg.Retention.Milliseconds()}
		if value != nil {
			args = append(args, value)
		}
		if ours, err := c.end(ctx, handleScript, args...); err != nil || !ours {
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

// renew renews the claim until stop is closed, and loses it when another delivery has it, or when Redis hasn't answered for a
// lease and the way fails closed.
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
		ask, cancel := context.WithDeadline(ctx, last.Add(c.cfg.Lease))
		ours, err := renewScript.Run(ask, c.client, []string{c.redisKey}, c.token, c.event.ID.String(), c.digest, c.cfg.Lease.Milliseconds()).Bool()
		cancel()
		switch {
		case err == nil && ours:
			last = sent
		case err == nil:
			c.cfg.Logger.WarnContext(ctx, "another delivery has the claim: the event may be applied twice", c.attrs()...)
			lose(ErrClaimLost)
			return
		case time.Since(last) >= c.cfg.Lease && !c.cfg.FailOpen:
			c.cfg.Logger.WarnContext(ctx, "the claim could not be renewed: the event may be applied twice", c.attrs("error", err)...)
			lose(fmt.Errorf("%w: %w", ErrClaimLost, err))
			return
		}
	}
}

// end runs the last script of a claim, whose answer tells whether the claim was ours. It is detached from the caller's
// context, which may be what ended the function.
func (c *claim) end(ctx context.Context, script *redis.Script, args ...any) (ours bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(c.cfg.Lease, 2*time.Second))
	defer cancel()
	return script.Run(ctx, c.client, []string{c.redisKey}, args...).Bool()
}
