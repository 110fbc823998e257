package outboxtest

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// calls knows the goroutines that a subtest's calls of Publish have started, and those that these have started, whatever
// else the process does: a goroutine inherits its profiler labels.
type calls struct{ label string }

func newCalls() *calls { return &calls{uuid.NewString()} }

const label = "outboxtest"

func (c *calls) publish(ctx context.Context, p outbox.Publisher, batch []outbox.Event) (errs []error) {
	pprof.Do(ctx, pprof.Labels(label, c.label), func(ctx context.Context) { errs = p.Publish(ctx, batch) })
	return errs
}

// running returns how many goroutines that calls have started are still there, and their stacks.
func (c *calls) running() (n int, stacks string) {
	var profile bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&profile, 1)   // a buffer takes everything
	_, entries, _ := strings.Cut(profile.String(), "\n") // a headline
	var ours []string
	// Goroutines with the same stack are one entry, which begins with their number.
	for entry := range strings.SplitSeq(entries, "\n\n") {
		if strings.Contains(entry, c.label) {
			number, _, _ := strings.Cut(entry, " ")
			same, _ := strconv.Atoi(number)
			n += same
			ours = append(ours, entry)
		}
	}
	return n, strings.Join(ours, "\n\n")
}

// requireNoGoroutine waits until all of them have ended.
func (s *suite) requireNoGoroutine() {
	s.t.Helper()
	require.NoError(s.t, s.poll(func() error {
		if n, stacks := s.calls.running(); n > 0 {
			return fmt.Errorf("%d goroutines:\n%s", n, stacks)
		}
		return nil
	}), "Publish has left goroutines behind, which outlive the publisher")
}
