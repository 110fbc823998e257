package outboxtest_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// broker is one in memory, which can refuse, hang and be restarted.
type broker struct {
	outboxtest.Recorder
	gate    atomic.Pointer[chan struct{}] // closed when it answers again
	forgets bool                          // what it holds, at a restart
	lost    atomic.Int64                  // how many events that has cost
}

var errRefused = errors.New("refused")

func newBroker() *broker {
	b := &broker{}
	b.Answer(func(ctx context.Context, e outbox.Event) error {
		if gate := b.gate.Load(); gate != nil {
			select {
			case <-*gate:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if e.Type == "refused" {
			return outbox.Permanent(errRefused)
		}
		return nil
	})
	return b
}

func (b *broker) hang() (resume func()) {
	gate := make(chan struct{})
	b.gate.Store(&gate)
	return func() { b.gate.Store(nil); close(gate) }
}

func (b *broker) restart() {
	if b.forgets {
		b.lost.Store(int64(len(b.Events())))
	}
}

func (b *broker) received(context.Context) ([]outbox.Event, error) {
	return b.Events()[b.lost.Load():], nil
}

func (b *broker) subject(p outbox.Publisher) outboxtest.Subject {
	return outboxtest.Subject{
		Publisher: p,
		Received:  b.received,
		Refused:   func(e outbox.Event) outbox.Event { e.Type = "refused"; return e },
		Hang:      b.hang,
		Restart:   b.restart,
	}
}

// publisher is a Publisher made of a function.
type publisher func(ctx context.Context, batch []outbox.Event) []error

func (p publisher) Publish(ctx context.Context, batch []outbox.Event) []error { return p(ctx, batch) }

// defect is a rule that a publisher breaks, and the test that must notice.
type defect struct {
	name, caughtBy string
	of             func(t *testing.T, b *broker) outbox.Publisher
}

// each changes each event before it is published, in a copy of the batch.
func each(change func(e *outbox.Event)) func(*testing.T, *broker) outbox.Publisher {
	return func(_ *testing.T, b *broker) outbox.Publisher {
		return publisher(func(ctx context.Context, batch []outbox.Event) []error {
			batch = slices.Clone(batch)
			for i := range batch {
				change(&batch[i])
			}
			return b.Publish(ctx, batch)
		})
	}
}

// result changes what is returned.
func result(change func(ctx context.Context, batch []outbox.Event, errs []error) []error) func(*testing.T, *broker) outbox.Publisher {
	return func(_ *testing.T, b *broker) outbox.Publisher {
		return publisher(func(ctx context.Context, batch []outbox.Event) []error {
			return change(ctx, batch, b.Publish(ctx, batch))
		})
	}
}

const (
	arrives   = "what was taken arrives as it was"
	odd       = "what a broker cannot carry is refused, not changed"
	ownBatch  = "the batch is neither changed nor kept"
	alone     = "an error is of its event alone"
	ends      = "a call ends with its context"
	noRoutine = "calls that ended leave no goroutine"
)

var defects = []defect{
	{"fails without a reason", "an empty batch is no failure", result(func(_ context.Context, batch []outbox.Event, errs []error) []error {
		if len(batch) == 0 {
			return []error{nil}
		}
		return errs
	})},
	{"changes payloads", arrives, each(func(e *outbox.Event) { e.Payload = []byte(strings.ReplaceAll(string(e.Payload), " ", "")) })},
	{"forgets headers", arrives, each(func(e *outbox.Event) { e.Headers = nil })},
	{"forgets the type", arrives, each(func(e *outbox.Event) { e.Type = "event" })},
	{"gives events other ids", arrives, each(func(e *outbox.Event) { e.ID = uuid.New() })},
	{"gives them another time", arrives, each(func(e *outbox.Event) { e.OccurredAt = time.Now() })},
	{"loses the last of many", arrives, func(_ *testing.T, b *broker) outbox.Publisher {
		return publisher(func(ctx context.Context, batch []outbox.Event) []error {
			return b.Publish(ctx, batch[:min(len(batch), 50)])
		})
	}},
	{"writes header names in its own way", odd, each(func(e *outbox.Event) {
		h := map[string]string{}
		for name, value := range e.Headers {
			h[strings.ToLower(name)] = value
		}
		e.Headers = h
	})},
	{"tries forever what cannot be carried", odd, func(_ *testing.T, b *broker) outbox.Publisher {
		return outbox.PublisherFunc(func(ctx context.Context, e outbox.Event) error {
			if e.ContentType == "text/plain" {
				return errRefused
			}
			return errors.Join(b.Publish(ctx, []outbox.Event{e})...)
		})
	}},
	{"counts attempts in a header", "a repetition is the same event", func(_ *testing.T, b *broker) outbox.Publisher {
		var attempts sync.Map
		return outbox.PublisherFunc(func(ctx context.Context, e outbox.Event) error {
			if _, repeated := attempts.LoadOrStore(e.ID, true); repeated {
				e.Headers = map[string]string{"attempt": "2"}
			}
			return errors.Join(b.Publish(ctx, []outbox.Event{e})...)
		})
	}},
	{"sorts the batch", ownBatch, func(_ *testing.T, b *broker) outbox.Publisher {
		return publisher(func(ctx context.Context, batch []outbox.Event) []error {
			slices.SortFunc(batch, func(a, b outbox.Event) int { return strings.Compare(a.AggregateID, b.AggregateID) })
			return b.Publish(ctx, batch)
		})
	}},
	{"appends to the batch", ownBatch, func(_ *testing.T, b *broker) outbox.Publisher {
		return publisher(func(ctx context.Context, batch []outbox.Event) []error {
			_ = append(batch, outbox.Event{Type: "end of batch"})
			return b.Publish(ctx, batch)
		})
	}},
	{"adds a header", ownBatch, func(_ *testing.T, b *broker) outbox.Publisher {
		return publisher(func(ctx context.Context, batch []outbox.Event) []error {
			copied := slices.Clone(batch)
			for i := range copied {
				copied[i].Headers = maps.Clone(batch[i].Headers)
				if batch[i].Headers != nil {
					batch[i].Headers["sent-by"] = "us"
				}
			}
			return b.Publish(ctx, copied)
		})
	}},
	{"sends a batch with the next one", ownBatch, func(_ *testing.T, b *broker) outbox.Publisher {
		var mu sync.Mutex
		var kept []outbox.Event
		return publisher(func(ctx context.Context, batch []outbox.Event) []error {
			mu.Lock()
			defer mu.Unlock()
			_ = b.Publish(context.WithoutCancel(ctx), kept)
			kept = batch
			return nil
		})
	}},
	{"takes one caller at a time", "calls at the same time do not meet", func(_ *testing.T, b *broker) outbox.Publisher {
		var mu sync.Mutex
		return publisher(func(ctx context.Context, batch []outbox.Event) []error {
			if !mu.TryLock() {
				return fail(batch, errors.New("busy"))
			}
			defer mu.Unlock()
			<-time.After(time.Millisecond) // the way to the broker
			return b.Publish(ctx, batch)
		})
	}},
	{"keeps failures to itself", alone, result(func(ctx context.Context, _ []outbox.Event, errs []error) []error {
		if ctx.Err() != nil {
			return errs
		}
		return nil
	})},
	{"fails the batch for one event", alone, result(func(_ context.Context, batch []outbox.Event, errs []error) []error {
		if err := errors.Join(errs...); err != nil {
			return fail(batch, err)
		}
		return nil
	})},
	{"returns one error for all", alone, result(func(_ context.Context, _ []outbox.Event, errs []error) []error {
		if err := errors.Join(errs...); err != nil {
			return []error{err}
		}
		return nil
	})},
	{"tries the refused forever", alone, result(func(_ context.Context, _ []outbox.Event, errs []error) []error {
		for i, err := range errs {
			if errors.Is(err, errRefused) {
				errs[i] = errRefused
			}
		}
		return errs
	})},
	{"sends the refused nevertheless", alone, func(_ *testing.T, b *broker) outbox.Publisher {
		return outbox.PublisherFunc(func(ctx context.Context, e outbox.Event) error {
			refused := e.Type == "refused"
			if refused {
				e.Type = "Refused"
			}
			err := errors.Join(b.Publish(ctx, []outbox.Event{e})...)
			if err == nil && refused {
				err = outbox.Permanent(errRefused)
			}
			return err
		})
	}},
	{"gives up at once", "a context that has ended ends the call", result(func(ctx context.Context, batch []outbox.Event, errs []error) []error {
		if ctx.Err() != nil {
			return fail(batch, outbox.Permanent(ctx.Err()))
		}
		return errs
	})},
	{"says taken before it sends", "a context that has ended ends the call", result(func(ctx context.Context, _ []outbox.Event, errs []error) []error {
		if ctx.Err() != nil {
			return nil
		}
		return errs
	})},
	{"asks the context only before", ends, func(_ *testing.T, b *broker) outbox.Publisher {
		return publisher(func(ctx context.Context, batch []outbox.Event) []error {
			return b.Publish(context.WithoutCancel(ctx), batch)
		})
	}},
	{"says taken when it has waited long enough", ends, result(func(ctx context.Context, batch []outbox.Event, errs []error) []error {
		if ctx.Err() != nil && len(batch) > 1 {
			return errs[:0]
		}
		return errs
	})},
	{"is broken by a timeout", ends, func(_ *testing.T, b *broker) outbox.Publisher {
		var broken atomic.Bool
		return publisher(func(ctx context.Context, batch []outbox.Event) []error {
			if broken.Load() {
				return fail(batch, errors.New("connection closed"))
			}
			errs := b.Publish(ctx, batch)
			broken.Store(ctx.Err() != nil)
			return errs
		})
	}},
	{"has a goroutine wait for the answer", noRoutine, func(_ *testing.T, b *broker) outbox.Publisher {
		return publisher(func(ctx context.Context, batch []outbox.Event) []error {
			answer := make(chan []error, 1)
			go func() { answer <- b.Publish(context.WithoutCancel(ctx), clones(batch)) }()
			select {
			case errs := <-answer:
				return errs
			case <-ctx.Done():
				return fail(batch, ctx.Err())
			}
		})
	}},
	{"has a goroutine that never ends", arrives, func(_ *testing.T, b *broker) outbox.Publisher {
		return publisher(func(ctx context.Context, batch []outbox.Event) []error {
			if len(batch) == 100 {
				go func() { select {} }()
			}
			return b.Publish(ctx, batch)
		})
	}},
	{"loses what it has taken", "what was taken survives a restart", func(_ *testing.T, b *broker) outbox.Publisher {
		b.forgets = true
		return b
	}},
}

func fail(batch []outbox.Event, err error) []error {
	return slices.Repeat([]error{err}, len(batch))
}

func clones(batch []outbox.Event) []outbox.Event {
	copied := slices.Clone(batch)
	for i := range copied {
		copied[i].Payload, copied[i].Headers = slices.Clone(batch[i].Payload), maps.Clone(batch[i].Headers)
	}
	return copied
}

// runDefective asks this test program to test the defective publishers, instead of what it otherwise does.
const runDefective = "OUTBOXTEST_RUN_DEFECTIVE"

func TestSuiteNoticesEachBrokenRule(t *testing.T) {
	if os.Getenv(runDefective) == "1" {
		for _, d := range defects {
			t.Run(d.name, func(t *testing.T) {
				t.Parallel()
				outboxtest.Publisher(t, func(t *testing.T) outboxtest.Subject {
					b := newBroker()
					s := b.subject(d.of(t, b))
					s.Patience, s.Soon = 300*time.Millisecond, 300*time.Millisecond
					return s
				})
			})
		}
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$", "-test.parallel=8")
	cmd.Env = append(os.Environ(), runDefective+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", out)
	for _, d := range defects {
		failed := fmt.Sprintf("--- FAIL: %s/%s/%s ", t.Name(), strings.ReplaceAll(d.name, " ", "_"), strings.ReplaceAll(d.caughtBy, " ", "_"))
		require.Contains(t, string(out), failed, "a publisher that %s passed", d.name)
	}
}

func TestSuitePassesASoundPublisher(t *testing.T) {
	outboxtest.Publisher(t, func(*testing.T) outboxtest.Subject {
		b := newBroker()
		return b.subject(b)
	})
}

// What the suite needs is said, and what it needs only for some rules may be absent.
func TestSuiteWithTheLeast(t *testing.T) {
	outboxtest.Publisher(t, func(*testing.T) outboxtest.Subject {
		b := newBroker()
		return outboxtest.Subject{Publisher: b, Received: b.received}
	})
}

func TestSuitePassesAChannel(t *testing.T) {
	outboxtest.Publisher(t, func(t *testing.T) outboxtest.Subject {
		events, b := make(chan outbox.Event), newBroker()
		var consumer sync.WaitGroup
		consumer.Go(func() {
			for e := range events {
				if gate := b.gate.Load(); gate != nil {
					<-*gate
				}
				b.Publish(context.Background(), []outbox.Event{e})
			}
		})
		t.Cleanup(func() { close(events); consumer.Wait() })
		return outboxtest.Subject{Publisher: outbox.Channel(events), Received: b.received}
	})
}
