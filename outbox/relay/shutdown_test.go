package relay_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// What is in flight when Run is told to end is finished, marked, and the shards are free at once.
func TestShutdownFinishesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 10, 1)
		inFlight, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		r := &recorder{block: func(context.Context) {
			once.Do(func() { close(inFlight) })
			<-release
		}}
		cfg := quick()
		cfg.LeaseTTL = time.Hour // nobody waits for it
		rel := db.relay(t, r, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- rel.Run(ctx) }()
		<-inFlight
		require.ErrorIs(t, rel.Run(ctx), relay.ErrRunning)
		cancel()
		select {
		case err := <-done:
			require.Fail(t, "Run didn't wait", "%v", err)
		case <-time.After(100 * time.Millisecond):
		}
		close(release)
		require.NoError(t, <-done)
		require.Zero(t, db.pending(t))
		require.Zero(t, outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox_cursors WHERE owner IS NOT NULL")+outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox_relays"))
	})
}

// A publisher that doesn't come back bounds the shutdown, and what it took counts as never tried.
func TestShutdownIsBounded(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 10, 1)
		inFlight := make(chan struct{})
		p := publisherFunc(func(ctx context.Context, batch []outbox.Event) []error {
			close(inFlight)
			<-ctx.Done()
			errs := make([]error, len(batch))
			for i := 1; i < len(errs); i++ {
				errs[i] = ctx.Err() // the first one was taken
			}
			return errs
		})
		cfg := quick()
		cfg.ShutdownTimeout = 50 * time.Millisecond
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- db.relay(t, p, cfg).Run(ctx) }()
		<-inFlight
		cancel()
		require.NoError(t, <-done)
		require.Equal(t, 9, db.pending(t), "what was taken is noted")
		require.Zero(t, db.parked(t, "attempts > 0"))
	})
}
