package inboxredis

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// stored is a store in which there is a record already, of another version of ours, or of another program.
type stored struct {
	inbox.ClaimStore
	reply []any
}

func (s stored) Claim(context.Context, string, inbox.Claim, time.Duration) (*inbox.Claim, error) {
	return parse(s.reply)
}

func (stored) Release(context.Context, string, inbox.Claim) error { return nil }

// Whatever is kept under an event's key: the event isn't handled a second time, a record that is believed is what was stored, and
// one that isn't is an error that says what is wrong with it, in a line of its own length.
func FuzzParse(f *testing.F) {
	id := uuid.MustParse("018f3b2e-0000-7000-8000-000000000001")
	f.Add("handled", id.String(), strings.Repeat("d", 32), "10 credits", uint8(4))
	f.Add("claimed", "", "", "", uint8(3))
	f.Fuzz(func(t *testing.T, state, event, digest, value string, fields uint8) {
		var reply []any
		for i, field := range []string{state, event, digest, value}[:fields%5] {
			if fields&(8<<i) != 0 {
				reply = append(reply, nil) // as a field that isn't there comes
			} else {
				reply = append(reply, field)
			}
		}
		if len(reply) == 0 {
			return // is the claim's success
		}
		claims, err := inbox.NewClaims(stored{reply: reply}, &inbox.ClaimsConfig{Consumer: "c", Wait: -1, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		var result inbox.Result
		result, err = claims.Results().Apply(t.Context(), outbox.Event{ID: id, Type: "t"}, func(context.Context, outbox.Event) ([]byte, error) {
			t.Error("handled again")
			return nil, nil
		})
		if err != nil {
			require.Less(t, len(err.Error()), 600, "%q", reply)
			require.NotContains(t, err.Error(), "\n")
			return
		}
		require.Equal(t, []any{"handled", event, digest}, reply[:3], "%q", reply)
		require.Contains(t, []inbox.Outcome{inbox.Repeated, inbox.Collided}, result.Outcome)
		first, err := uuid.Parse(event)
		require.NoError(t, err)
		require.Equal(t, first, result.First)
		require.Len(t, digest, 32)
		if len(reply) == 4 && reply[3] != nil {
			require.Equal(t, []byte(value), result.Value)
		} else {
			require.Nil(t, result.Value)
		}
	})
}
