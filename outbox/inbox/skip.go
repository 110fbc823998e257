package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/endstate-go/endstate/outbox"
)

// ErrSkip is what a function, a configuration's Key, or the function of a Status returns for an event that the consumer has
// nothing to do with. The delivery is done with, its outcome is Skipped, and nothing is kept: what the function wrote through
// its transaction is rolled back, no attempt is counted, and a repeat asks again.
var ErrSkip = errors.New("inbox: nothing to do with the event")

// checkTypes says which of a configuration's Types can't be one.
func checkTypes(types []string) error {
	for _, t := range types {
		if name := strings.TrimSuffix(t, ".*"); name == "" || strings.Contains(name, "*") {
			return fmt.Errorf(`has %q: a type is spelt out, or ends in ".*"`, t)
		}
	}
	return nil
}

// handles reports whether a consumer of these types handles an event's.
func handles(types []string, eventType string) bool {
	return len(types) == 0 || slices.ContainsFunc(types, func(t string) bool {
		family, isFamily := strings.CutSuffix(t, "*")
		return t == eventType || isFamily && strings.HasPrefix(eventType, family)
	})
}

// skip is the result of a delivery that the consumer has nothing to do with.
func skip(ctx context.Context, logger *slog.Logger, consumer string, event outbox.Event) Result {
	logger.DebugContext(ctx, "event skipped", "consumer", consumer, "event", event.ID.String(), "type", event.Type)
	return Result{Outcome: Skipped}
}

// report logs what became of a delivery. Two events of different types under one key are all but certainly a mistake of the
// key's, by which the second one's effect is lost.
func (d *delivery) report(ctx context.Context, logger *slog.Logger, result Result) {
	switch {
	case result.Outcome == Collided && d.otherType:
		logger.ErrorContext(ctx, "AN EVENT WAS NOT APPLIED: an event of another type has the same key; let Key include the event's type, or name the consumer's Types", d.attrs("first", result.First.String())...)
	case result.Outcome == Collided:
		logger.WarnContext(ctx, "an event was not applied: another one, with other content, has the same key", d.attrs("first", result.First.String())...)
	case logger.Enabled(ctx, slog.LevelDebug):
		logger.DebugContext(ctx, "delivery done", d.attrs("outcome", result.Outcome.String())...)
	}
}
