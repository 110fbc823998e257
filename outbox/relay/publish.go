package relay

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/endstate-go/endstate/outbox"
)

var (
	errPublishTimeout = errors.New("relay: the call took longer than Config.PublishTimeout")
	errPutOff         = errors.New("relay: not tried by itself") // not to blame
	errGoexit         = errors.New("relay: the call ended its goroutine")
)

// patience is how long a call of Publish may go on after its context has ended before it is left behind.
const patience = 2 * time.Second

// call publishes a batch, or handles it. The errors are those of the events, nil for all of them published; culprit is false if they don't
// tell which event was to blame: the publisher panicked, hung, or returned something else than an error for each.
func (t *term) call(publish func(context.Context, []outbox.Event) []error, events []outbox.Event) (errs []error, culprit bool) {
	ctx, cancel := context.WithTimeoutCause(t.lease.ctx, t.cfg.PublishTimeout, errPublishTimeout)
	defer cancel()
	type result struct {
		errs []error
		err  error // of the call as a whole
	}
	done := make(chan result, 1)
	try := Try{Destination: t.address, Consumer: t.begin != nil, Events: events}
	trace, began := t.cfg.Trace, time.Now()
	if trace.Trying != nil {
		ctx = trace.Trying(ctx, try)
	}
	if trace.Tried != nil {
		defer func() { trace.Tried(ctx, try, errs, time.Since(began)) }()
	}
	go func() {
		res := result{err: errGoexit}
		defer func() {
			if p := recover(); p != nil {
				res = result{err: fmt.Errorf("relay: the call panicked with a %T", p)} // its text may hold anything
				t.log.ErrorContext(ctx, "outbox relay: the publisher panicked", "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			}
			done <- res
		}()
		errs := publish(ctx, events)
		res = result{errs: errs}
	}()
	var res result
	select {
	case res = <-done:
	case <-ctx.Done():
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case res = <-done:
		case <-timer.C:
			res.err = context.Cause(ctx)
			t.events = nil // which it still has
			t.log.ErrorContext(ctx, "outbox relay: the publisher goes on after its context has ended, and is left behind", "events", len(events))
		}
	}
	if res.err == nil && res.errs != nil && len(res.errs) != len(events) {
		res.err = fmt.Errorf("relay: Publish returned %d errors for %d events", len(res.errs), len(events))
	}
	if res.err != nil {
		errs = make([]error, len(events))
		for i := range errs {
			errs[i] = res.err
		}
		return errs, len(events) == 1
	}
	failed := 0
	for _, err := range res.errs {
		if err != nil {
			failed++
		}
	}
	if failed == 0 {
		return nil, true
	}
	// Of several that were under way when the time was up, one may have held up the others.
	return res.errs, failed == 1 || ctx.Err() == nil
}

// maxCulprits is how many events of one batch may be found to hold up the others before the rest is put off.
const maxCulprits = 2

// publish publishes a batch and returns the error of each row, nil for all of them published. Where those of the batch don't tell which event was to
// blame, its events are published one by one until that is found out.
func (t *term) publish(rows []*row) []error {
	events := t.events[:0]
	for _, r := range rows {
		events = append(events, r.Event)
	}
	t.events = events
	errs, culprit := t.call(t.publisher.Publish, events)
	if !culprit {
		errs = slices.Clone(errs) // they may be the publisher's
		t.log.WarnContext(t.lease.ctx, "outbox relay: a batch failed as a whole, publishing its events one by one", "events", len(events), "error", firstError(errs))
		for culprits, i := 0, 0; i < len(events) && !t.lease.lost(); i++ {
			if errs[i] == nil {
				continue
			}
			if culprits == maxCulprits {
				errs[i] = errPutOff
				continue
			}
			if single, _ := t.call(t.publisher.Publish, events[i:i+1]); single == nil {
				errs[i] = nil
			} else {
				errs[i] = single[0]
				culprits++
			}
		}
	}
	for i, r := range rows {
		if errs == nil || errs[i] == nil {
			t.count(r)
		}
	}
	return errs
}

// count notes that an event is published, or handled.
func (t *term) count(r *row) {
	t.lease.published.Add(1)
	if f := t.cfg.Trace.Published; f != nil {
		f(t.lease.ctx, r.Event, time.Since(r.put))
	}
}

func firstError(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
