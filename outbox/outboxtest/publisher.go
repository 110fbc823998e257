package outboxtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// Subject is a publisher with what Publisher needs to know of the broker behind it. Publisher and Received are required;
// what of the contract needs one of the other fields is only tested if it is there.
type Subject struct {
	// Publisher is what is tested.
	Publisher outbox.Publisher
	// Received returns the events that the broker has taken so far, as a consumer gets them: in any order, a repeat once or
	// several times. Fields that it leaves zero aren't compared, save ID, Type, Payload and Headers.
	Received func(ctx context.Context) ([]outbox.Event, error)
	// Refused makes of an event one that the broker refuses for good while it takes others, by its size for instance.
	Refused func(outbox.Event) outbox.Event
	// Hang has the broker stop answering, without closing a connection, until resume is called.
	Hang func() (resume func())
	// Restart kills the broker, or stops it in its hardest way, and starts it again with what it keeps on disk.
	Restart func()
	// Patience is how long an event that was taken may need to arrive, and the broker to work again after Hang and Restart.
	// Default 10 seconds.
	Patience time.Duration
	// Soon is how long a call may last after its context has ended. Default 5 seconds.
	Soon time.Duration
}

// Publisher tests whether a publisher keeps the contract of outbox.Publisher, each rule in a subtest. The function is called
// for each of them and returns a publisher to a place that holds no events; what has to be closed is left to t.Cleanup.
func Publisher(t *testing.T, subject func(t *testing.T) Subject) {
	t.Helper()
	for _, test := range []struct {
		name  string
		needs func(Subject) bool
		run   func(*suite)
	}{
		{"an empty batch is no failure", nil, (*suite).empty},
		{"what was taken arrives as it was", nil, (*suite).arrives},
		{"what a broker cannot carry is refused, not changed", nil, (*suite).oddEvents},
		{"a repetition is the same event", nil, (*suite).repeated},
		{"the batch is neither changed nor kept", nil, (*suite).batchStaysTheCallers},
		{"calls at the same time do not meet", nil, (*suite).concurrent},
		{"an error is of its event alone", func(s Subject) bool { return s.Refused != nil }, (*suite).refused},
		{"a context that has ended ends the call", nil, (*suite).endedBefore},
		{"a call ends with its context", func(s Subject) bool { return s.Hang != nil }, (*suite).endedMeanwhile},
		{"calls that ended leave no goroutine", func(s Subject) bool { return s.Hang != nil }, (*suite).leavesNoGoroutine},
		{"what was taken survives a restart", func(s Subject) bool { return s.Restart != nil }, (*suite).restarted},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &suite{t: t, calls: newCalls()}
			// The first to be registered is the last to run: the subject has been closed by then.
			t.Cleanup(s.requireNoGoroutine)
			s.Subject = subject(t)
			s.Patience = cmp.Or(s.Patience, patience)
			s.Soon = cmp.Or(s.Soon, 5*time.Second)
			require.NotNil(t, s.Publisher, "Subject.Publisher")
			require.NotNil(t, s.Received, "Subject.Received")
			if test.needs == nil || test.needs(s.Subject) {
				test.run(s)
			}
		})
	}
}

type suite struct {
	Subject
	t     *testing.T
	calls *calls
}

// call publishes, and checks what holds for the result of every call.
func (s *suite) call(ctx context.Context, batch []outbox.Event) []error {
	s.t.Helper()
	errs := s.calls.publish(ctx, s.Publisher, batch)
	if len(errs) == 0 || len(errs) == len(batch) {
		return errs
	}
	s.t.Errorf("Publish returned %d errors for %d events: it must be one for each, or nil", len(errs), len(batch))
	return slices.Repeat([]error{errors.New("another number of errors than events")}, len(batch))
}

// mustTake publishes events that the broker has to take.
func (s *suite) mustTake(batch []outbox.Event) {
	s.t.Helper()
	for i, err := range s.call(s.t.Context(), batch) {
		require.NoError(s.t, err, "event %d of %d", i+1, len(batch))
	}
}

// requireArrived waits until the broker has each of the events, and checks that they are as they were.
func (s *suite) requireArrived(events []outbox.Event) {
	s.t.Helper()
	var got map[uuid.UUID][]outbox.Event
	require.NoError(s.t, s.poll(func() error {
		got = s.received()
		missing := 0
		for _, e := range events {
			if len(got[e.ID]) == 0 {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d of %d events that were taken have not arrived", missing, len(events))
		}
		return nil
	}))
	for _, want := range events {
		for _, e := range got[want.ID] {
			require.Empty(s.t, difference(want, e), "an event of type %q is not what was published", want.Type)
		}
	}
}

// received returns what the broker has, by id.
func (s *suite) received() map[uuid.UUID][]outbox.Event {
	s.t.Helper()
	all, err := s.Received(s.t.Context())
	require.NoError(s.t, err, "Subject.Received")
	byID := map[uuid.UUID][]outbox.Event{}
	for _, e := range all {
		byID[e.ID] = append(byID[e.ID], e)
	}
	return byID
}

// difference says which fields of an event differ.
func difference(want, got outbox.Event) string {
	var all []string
	add := func(name string, want, got any) {
		if want != got {
			all = append(all, fmt.Sprintf("%s is %.100q, was %.100q", name, fmt.Sprint(got), fmt.Sprint(want)))
		}
	}
	add("Type", want.Type, got.Type)
	add("Payload", string(want.Payload), string(got.Payload))
	if !maps.Equal(want.Headers, got.Headers) {
		all = append(all, fmt.Sprintf("Headers is %q, was %q", got.Headers, want.Headers))
	}
	if got.AggregateType != "" {
		add("AggregateType", want.AggregateType, got.AggregateType)
	}
	if got.AggregateID != "" {
		add("AggregateID", want.AggregateID, got.AggregateID)
	}
	if got.ContentType != "" {
		add("ContentType", want.ContentType, got.ContentType)
	}
	if got.SchemaVersion != 0 {
		add("SchemaVersion", want.SchemaVersion, got.SchemaVersion)
	}
	if !got.OccurredAt.IsZero() && !got.OccurredAt.Equal(want.OccurredAt) {
		add("OccurredAt", want.OccurredAt, got.OccurredAt)
	}
	return strings.Join(all, "; ")
}

// poll asks until there is no error, or patience is over.
func (s *suite) poll(ready func() error) error {
	deadline := time.Now().Add(s.Patience)
	for {
		err := ready()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-time.After(5 * time.Millisecond)
	}
}

// batch makes events, each of an aggregate of its own.
func batch(n int) []outbox.Event {
	events := make([]outbox.Event, n)
	for i := range events {
		events[i] = outbox.Event{
			ID:            newID(),
			AggregateType: "batch",
			AggregateID:   uuid.NewString(),
			Type:          "assessment.completed",
			Payload:       fmt.Appendf(nil, `{ "n":%d, "a":"b","a":"c" }`, i),
			ContentType:   "application/json",
			Headers:       map[string]string{"traceparent": fmt.Sprintf("00-0af7651916cd43dd8448eb211c80319c-%016x-01", i)},
			OccurredAt:    time.Date(2026, 2, 3, 4, 5, 6, 123456000, time.UTC),
			SchemaVersion: i%3 + 1,
		}
	}
	return events
}

func newID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

// clones is a copy of a batch that shares nothing with it.
func clones(batch []outbox.Event) []outbox.Event {
	copied := make([]outbox.Event, len(batch))
	for i, e := range batch {
		copied[i] = clone(e)
	}
	return copied
}

// inParallel runs n functions and waits for them.
func inParallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
