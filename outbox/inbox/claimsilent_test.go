package inbox_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/inbox/inboxredis"
)

// hushed is a store whose renewals get no answer while silent says so.
type hushed struct {
	inbox.ClaimStore
	silent  func(call int) bool
	calls   int // renewals come one after the other
	renewed chan struct{}
}

func (h *hushed) Renew(ctx context.Context, key string, c inbox.Claim, lease time.Duration) (bool, error) {
	h.calls++
	if h.silent(h.calls) {
		<-ctx.Done()
		return false, ctx.Err()
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	ours, err := h.ClaimStore.Renew(ctx, key, c, lease)
	if err == nil && ours {
		select {
		case h.renewed <- struct{}{}:
		default:
		}
	}
	return ours, err
}

// F49: a claim outlives a connection that goes silent at its renewal, since the next one is on another; one that fails open is
// renewed again when the store answers again, however long that took, and says so meanwhile.
func TestASilentRenewalIsNotTheLast(t *testing.T) {
	t.Parallel()
	for name, failOpen := range map[string]bool{"fails closed": false, "fails open": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, err := inboxredis.New(dbtest.Redis(t), "")
			require.NoError(t, err)
			var log dbtest.Log
			said := func() bool { return strings.Contains(log.String(), "the claim could not be renewed") }
			h := &hushed{ClaimStore: store, renewed: make(chan struct{}, 1), silent: func(call int) bool { return call == 1 }}
			lease := 15 * time.Second
			if failOpen {
				lease, h.silent = time.Second, func(int) bool { return !said() }
			}
			way, err := inbox.NewClaims(h, &inbox.ClaimsConfig{Consumer: "entitlements", Lease: lease, FailOpen: failOpen, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			require.NoError(t, err)
			_, err = inbox.Handle(way, func(ctx context.Context, _ outbox.Event) error {
				select {
				case <-h.renewed:
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(2 * time.Minute):
					t.Error("the claim is not renewed any more")
				}
				return nil
			})(t.Context(), event())
			require.NoError(t, err)
			require.Greater(t, h.calls, 1, "the fault fired: one call got no answer")
			require.Equal(t, failOpen, said())
		})
	}
}
