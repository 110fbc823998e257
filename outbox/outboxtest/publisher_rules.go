package outboxtest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

func (s *suite) empty() {
	for _, none := range [][]outbox.Event{nil, {}} {
		require.Empty(s.t, s.call(s.t.Context(), none))
	}
}

func (s *suite) arrives() {
	var all []outbox.Event
	for _, n := range []int{1, 2, 100} {
		events := batch(n)
		s.mustTake(clones(events))
		all = append(all, events...)
	}
	s.requireArrived(all)
}

// oddEvents are such as the outbox allows and transports trip over. A broker may refuse them, for good.
func (s *suite) oddEvents() {
	events := batch(9)
	events[0].ContentType, events[0].Payload = "application/octet-stream", []byte("\x00\xff\r\n\"\\")
	events[1].ContentType, events[1].Payload = "text/plain; charset=utf-8", []byte{}
	events[2].Payload = []byte("\n [\"\\ud800\", 1e400, \"<&> \u2028\"] ")
	events[3].Payload = []byte(strings.Repeat("[", 9_999) + strings.Repeat("]", 9_999))
	events[4].ContentType, events[4].Payload = "text/plain", []byte(strings.Repeat("x", 256<<10))
	events[5].AggregateType, events[5].AggregateID, events[5].Type = `batch "x" *`, "i:1/t:a'b > é 100%", ".assessment .. completed.>"
	events[6].Headers = map[string]string{"": "empty name", "empty": "", "Content-Length": "0", "two words": "a\r\nb: c\t", `q"\`: "é \u2028 😀 100%", "id": "1"}
	events[7].Headers = nil
	events[8].AggregateID = "i:1\r\n\u0085\ufffe"
	var taken []outbox.Event
	errs := s.call(s.t.Context(), clones(events))
	for i, e := range events {
		if len(errs) > 0 && errs[i] != nil {
			require.ErrorIs(s.t, errs[i], outbox.ErrPermanent, "an event that cannot be carried must be refused for good")
			continue
		}
		taken = append(taken, e)
	}
	s.requireArrived(taken)
}

func (s *suite) repeated() {
	events := batch(10)
	for range 3 {
		s.mustTake(clones(events))
	}
	s.requireArrived(events)
}

// batchStaysTheCallers looks for changes when a call returns, then writes over all that the publisher was given: what it
// sends later would be something else.
func (s *suite) batchStaysTheCallers() {
	const events, beyond = 10, 3
	var all []outbox.Event
	for range 30 {
		original := batch(events + beyond)
		given := clones(original)
		s.mustTake(given[:events])
		for i, e := range given {
			require.Equal(s.t, original[i].ID, e.ID, "Publish changed event %d of the batch, of %d", i+1, events)
			require.Empty(s.t, difference(original[i], e), "Publish changed event %d of the batch, of %d", i+1, events)
		}
		for i := range given {
			copy(given[i].Payload, strings.Repeat("?", len(given[i].Payload)))
			clear(given[i].Headers)
			given[i] = outbox.Event{Type: "written over"}
		}
		all = append(all, original[:events]...)
	}
	s.requireArrived(all)
}

func (s *suite) concurrent() {
	const callers, batches = 8, 5
	var mu sync.Mutex
	var all []outbox.Event
	inParallel(callers, func(int) {
		for range batches {
			events := batch(10)
			for _, err := range s.call(s.t.Context(), clones(events)) {
				if err != nil {
					s.t.Errorf("an event was refused while other calls ran: %v", err)
				}
			}
			mu.Lock()
			all = append(all, events...)
			mu.Unlock()
		}
	})
	s.requireArrived(all)
}

func (s *suite) refused() {
	events := batch(5)
	bad := []int{1, 4}
	for _, i := range bad {
		events[i] = s.Refused(events[i])
	}
	errs := s.call(s.t.Context(), clones(events))
	require.Len(s.t, errs, len(events), "the broker refuses two events of the batch")
	var taken []outbox.Event
	for i, e := range events {
		if slices.Contains(bad, i) {
			require.ErrorIs(s.t, errs[i], outbox.ErrPermanent, "event %d, which the broker refuses", i+1)
			continue
		}
		require.NoError(s.t, errs[i], "event %d, though the broker refuses others only", i+1)
		taken = append(taken, e)
	}
	s.requireArrived(taken)
	got := s.received()
	for _, i := range bad {
		require.Empty(s.t, got[events[i].ID], "event %d arrived, and Publish said that it was refused", i+1)
	}
}

func (s *suite) endedBefore() {
	ctx, cancel := context.WithCancel(s.t.Context())
	cancel()
	events := batch(10)
	start := time.Now()
	errs := s.call(ctx, clones(events))
	require.Less(s.t, time.Since(start), s.Soon, "Publish did not return soon")
	// It may have been faster than the look at the context: what it says that the broker took, the broker has.
	var taken []outbox.Event
	for i, e := range events {
		if len(errs) == 0 || errs[i] == nil {
			taken = append(taken, e)
			continue
		}
		require.NotErrorIs(s.t, errs[i], outbox.ErrPermanent, "the end of a context is not for good")
	}
	s.requireArrived(taken)
}

// endedMeanwhile ends calls while the broker hangs, by cancelling and by a deadline, and expects the publisher to work again
// when the broker does.
func (s *suite) endedMeanwhile() {
	const lasts = 100 * time.Millisecond
	events := batch(10)
	s.mustTake(clones(events[:1])) // whatever the first call sets up is there
	for _, cancels := range []bool{true, false} {
		var errs []error
		s.whileItHangs(func(resume func()) {
			s.returnsSoon(resume, func() {
				ctx, cancel := context.WithCancel(s.t.Context())
				if cancels {
					defer time.AfterFunc(lasts, cancel).Stop()
				} else {
					ctx, cancel = context.WithTimeout(ctx, lasts)
				}
				defer cancel()
				errs = s.call(ctx, clones(events))
			})
		})
		require.Len(s.t, errs, len(events), "the broker took none of the events")
		for i, err := range errs {
			require.Error(s.t, err, "event %d, which the broker did not take", i+1)
			require.NotErrorIs(s.t, err, outbox.ErrPermanent, "the end of a context is not for good")
		}
	}
	require.NoError(s.t, s.poll(func() error {
		return errors.Join(s.call(s.t.Context(), clones(events))...)
	}), "the broker answers again")
	s.requireArrived(events)
}

// whileItHangs does something that calls Publish, and has the broker answer again afterwards.
func (s *suite) whileItHangs(do func(resume func())) {
	s.t.Helper()
	resume := sync.OnceFunc(s.Hang())
	defer resume()
	do(resume)
}

// returnsSoon runs calls whose contexts end soon, while the broker hangs. If they don't return, resume lets them.
func (s *suite) returnsSoon(resume func(), calls func()) {
	s.t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		calls()
	}()
	select {
	case <-ended:
	case <-time.After(s.Soon):
		resume()
		<-ended
		require.Fail(s.t, "Publish did not return soon after its context had ended", "it was given %v", s.Soon)
	}
}

func (s *suite) leavesNoGoroutine() {
	// A connection may have goroutines of its own, also one that was made for a call which ended in the meantime and is kept
	// for the next; but not more with each call. So many is well above what any pool of connections holds.
	const few, many = 5, 100
	s.mustTake(batch(1))
	s.whileItHangs(func(resume func()) {
		end := func(calls int) {
			s.returnsSoon(resume, func() {
				inParallel(calls, func(int) {
					ctx, cancel := context.WithTimeout(s.t.Context(), 50*time.Millisecond)
					defer cancel()
					s.call(ctx, batch(1))
				})
			})
		}
		end(few)
		before, _ := s.calls.running()
		end(many)
		var after int
		var stacks string
		_ = s.poll(func() error { // they may be about to end
			if after, stacks = s.calls.running(); after >= before+many {
				return errors.New("they are there")
			}
			return nil
		})
		require.Less(s.t, after, before+many, "the broker hangs, and calls that have returned left goroutines behind:\n%s", stacks)
	})
}

func (s *suite) restarted() {
	events := batch(50)
	s.mustTake(clones(events))
	s.Restart()
	s.requireArrived(events)
	more := batch(10)
	require.NoError(s.t, s.poll(func() error {
		return errors.Join(s.call(s.t.Context(), clones(more))...)
	}), "after the broker's restart")
	s.requireArrived(append(events, more...))
}
