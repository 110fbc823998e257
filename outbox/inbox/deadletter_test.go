package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

var errPoison = errors.New("no such account")

// poison writes its effect, and fails.
func poison(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
	return errors.Join(charge(ctx, tx, event), errPoison)
}

func attempts(n int) option {
	return tableConfig(func(cfg *inbox.TableConfig) { cfg.MaxAttempts = n })
}

func TestAPoisonedEventIsCountedKeptAndRetried(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		e := event()
		e.Payload, e.Headers = []byte{0, 0xff, '{'}, map[string]string{"traceparent": "00-ab"}
		for attempt := 1; attempt < 3; attempt++ {
			_, err := c.way(poison)(t.Context(), e)
			require.ErrorIs(t, err, errPoison)
			require.ErrorContains(t, err, fmt.Sprintf("attempt %d", attempt))
			letters, err := c.table.letters(t.Context(), 10)
			require.NoError(t, err)
			require.Empty(t, letters)
		}
		// The last attempt, and what comes after it, is done with.
		for range 3 {
			r, err := c.way(poison)(t.Context(), e)
			require.NoError(t, err)
			require.Equal(t, inbox.Result{Outcome: inbox.DeadLettered, First: e.ID}, r)
		}
		require.Zero(t, c.credits())
		letters, err := c.table.letters(t.Context(), 10)
		require.NoError(t, err)
		require.Len(t, letters, 1)
		require.WithinDuration(t, time.Now(), letters[0].At, time.Hour)
		letters[0].At = time.Time{}
		require.Equal(t, inbox.DeadLetter{Key: e.ID.String(), Event: e, Attempts: 3, Err: errPoison.Error()}, letters[0])

		// A retry that fails leaves it where it is.
		r, err := c.table.retry(t.Context(), letters[0].Key, poison)
		require.NoError(t, err)
		require.Equal(t, inbox.DeadLettered, r.Outcome)
		letters, err = c.table.letters(t.Context(), 10)
		require.NoError(t, err)
		require.Equal(t, 4, letters[0].Attempts)

		r, err = c.table.retry(t.Context(), letters[0].Key, func(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
			require.Equal(t, e, event)
			return charge(ctx, tx, event)
		})
		require.NoError(t, err)
		require.Equal(t, inbox.Applied, r.Outcome)
		require.Equal(t, 1, c.credits())
		letters, err = c.table.letters(t.Context(), 10)
		require.NoError(t, err)
		require.Empty(t, letters)
		r, err = c.way(charge)(t.Context(), e)
		require.NoError(t, err)
		require.Equal(t, inbox.Repeated, r.Outcome)
		require.Equal(t, 1, c.credits())
		_, err = c.table.retry(t.Context(), e.ID.String(), charge)
		require.ErrorIs(t, err, inbox.ErrNotFound)
	}, attempts(3))
}

func TestAPermanentFailureIsADeadLetterAtOnce(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		r, err := c.way(func(context.Context, endstate.Querier, outbox.Event) error { return outbox.Permanent(errPoison) })(t.Context(), event())
		require.NoError(t, err)
		require.Equal(t, inbox.DeadLettered, r.Outcome)
		require.Equal(t, "dead", c.text(`SELECT state FROM endstate_inbox`))
	})
}

func TestWithoutALimitThereAreNoDeadLetters(t *testing.T) {
	c := newConsumer(t, "table", "sqlite", attempts(-1))
	e := event()
	for range 20 {
		_, err := c.way(poison)(t.Context(), e)
		require.ErrorIs(t, err, errPoison)
	}
	require.Equal(t, "failed", c.text(`SELECT state FROM endstate_inbox`))
}

// One whose stored event can't be read, another version's perhaps, hides no other, and can be discarded.
func TestADeadLetterThatCantBeRead(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		broken, sound := event(), event()
		for _, e := range []outbox.Event{broken, sound} {
			_, err := c.way(poison)(t.Context(), e)
			require.NoError(t, err)
		}
		for _, stored := range []string{"NULL", "'{'"} {
			c.exec("UPDATE endstate_inbox SET event = "+stored+" WHERE key = $1", broken.ID.String())
			letters, err := c.table.letters(t.Context(), 10)
			require.NoError(t, err)
			require.Len(t, letters, 2)
			for _, l := range letters {
				if l.Key == broken.ID.String() {
					require.Error(t, l.Unreadable)
				} else {
					require.NoError(t, l.Unreadable)
					require.Equal(t, sound.Payload, l.Event.Payload)
				}
			}
			_, err = c.table.retry(t.Context(), broken.ID.String(), charge)
			require.ErrorContains(t, err, "can't be read")
		}
		require.NoError(t, c.table.discard(t.Context(), broken.ID.String()))
	}, attempts(1))
}

// Another payload under a failed or dead event's id is told apart, until the dead letter is discarded.
func TestADiscardedDeadLetterIsForgotten(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		e := event()
		fixed := e
		fixed.Payload = []byte(`{"fixed":true}`)
		for _, state := range []string{"failed", "dead"} {
			_, _ = c.way(poison)(t.Context(), e)
			require.Equal(t, state, c.text(`SELECT state FROM endstate_inbox`))
			_, err := c.way(charge)(t.Context(), fixed)
			require.ErrorIs(t, err, inbox.ErrPayloadMismatch)
		}
		require.Zero(t, c.credits())
		require.NoError(t, c.table.discard(t.Context(), e.ID.String()))
		require.ErrorIs(t, c.table.discard(t.Context(), e.ID.String()), inbox.ErrNotFound)
		r, err := c.way(charge)(t.Context(), fixed)
		require.NoError(t, err)
		require.Equal(t, inbox.Applied, r.Outcome)
		require.Equal(t, 1, c.credits())
		require.ErrorIs(t, c.table.discard(t.Context(), e.ID.String()), inbox.ErrNotFound, "a handled event is no dead letter")
	}, attempts(2))
}

// A dead letter of a business key doesn't keep another event of that key from being tried.
func TestADeadLetterOfAKeyLetsAnotherEventTry(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		bad, good := event(), event()
		r, err := c.way(poison)(t.Context(), bad)
		require.NoError(t, err)
		require.Equal(t, inbox.DeadLettered, r.Outcome)
		letters, err := c.table.letters(t.Context(), 10)
		require.NoError(t, err)
		require.Equal(t, "credit/batch-1", letters[0].Key)
		r, err = c.way(charge)(t.Context(), good)
		require.NoError(t, err)
		require.Equal(t, inbox.Applied, r.Outcome)
		r, err = c.way(charge)(t.Context(), bad)
		require.NoError(t, err)
		require.Equal(t, inbox.Result{Outcome: inbox.Repeated, First: good.ID}, r)
		require.Equal(t, 1, c.credits())
	}, attempts(1), tableConfig(func(cfg *inbox.TableConfig) {
		cfg.Key = func(e outbox.Event) (string, error) { return "credit/" + e.AggregateID, nil }
	}))
}

// Many deliveries that fail at once are all counted.
func TestAttemptsAtOnceAreAllCounted(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		e := event()
		dbtest.AtOnce(20, func(int) {
			_, err := c.way(poison)(t.Context(), e)
			require.ErrorIs(t, err, errPoison)
		})
		require.Equal(t, 20, c.count(`SELECT attempts FROM endstate_inbox`))
		require.Zero(t, c.credits())
	}, attempts(100))
}

// A failing delivery whose effect another one commits meanwhile leaves the record of that alone.
func TestAFailureAfterASuccessIsNotCounted(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		e := event()
		_, err := c.way(func(context.Context, endstate.Querier, outbox.Event) error { return errPoison })(t.Context(), e)
		require.ErrorIs(t, err, errPoison)
		_, err = c.way(charge)(t.Context(), e)
		require.NoError(t, err)
		require.Equal(t, 2, c.count(`SELECT attempts FROM endstate_inbox WHERE state = 'handled' AND event IS NULL AND error IS NULL`))
	})
}

func TestLongErrorsAndStrangeOnesAreKeptAsText(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		for _, text := range []string{strings.Repeat("é", 2000), "a\x00b\xffc"} {
			_, err := c.way(func(context.Context, endstate.Querier, outbox.Event) error { return outbox.Permanent(errors.New(text)) })(t.Context(), event())
			require.NoError(t, err)
		}
		letters, err := c.table.letters(t.Context(), 1)
		require.NoError(t, err)
		require.Len(t, letters, 1)
		require.Less(t, len(letters[0].Err), 1001)
		require.Equal(t, 2, c.count(`SELECT count(*) FROM endstate_inbox WHERE error <> ''`))
	})
}
