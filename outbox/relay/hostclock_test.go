package relay_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// F18: only the database's clock counts. In the bubble it is the year 2000, and time flies whenever nobody has anything to
// do, so that this host's clock is wrong by decades, and doesn't run like the database's either.
func TestHostClockDoesNotCount(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, hostClockDoesNotCount)
}

func hostClockDoesNotCount(t *testing.T, db *database) {
	db.aggregates(t, 10, 3)
	e := event("in an hour", "")
	e.AggregateID = "later"
	db.Put(t, e)
	synctest.Test(t, func(t *testing.T) {
		require.Equal(t, 2000, time.Now().Year())
		failed := map[string]bool{}
		r := &recorder{fail: func(e outbox.Event) error {
			if e.Type == "in an hour" {
				return outbox.RetryAfter(errors.New("in an hour"), time.Hour)
			}
			if !failed[e.AggregateID] {
				failed[e.AggregateID] = true
				return errors.New("the first time")
			}
			return nil
		}}
		cfg := quick()
		cfg.Retention = time.Hour
		cfg.LeaseTTL, cfg.PollInterval = 10*time.Hour, time.Hour // of which many pass
		relay.SetFirstPoll(cfg, time.Minute)
		own := &database{&outboxdbtest.Database{}} // connections of the bubble's own
		if db.SQLite {
			own.SQL = dbtest.SQLiteOn(t, db.URL)
		} else {
			own.Pool = dbtest.PoolOn(t, db.URL)
		}
		rel := own.relay(t, r, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- rel.Run(ctx) }()
		for range 1000 {
			if len(r.published()) == 30 {
				break
			}
			time.Sleep(time.Second)
		}
		time.Sleep(3 * time.Hour) // on this host
		cancel()
		require.NoError(t, <-done)
		for a := range 10 {
			require.Equal(t, numbered(3), r.first(fmt.Sprint("a", a)))
		}
	})
	require.Equal(t, 1, db.pending(t))
	require.Equal(t, 1, db.parked(t, "attempts = 1 AND next_attempt_at > parked_at"), "the hour isn't over")
	require.Equal(t, 31, db.Count(t), "nothing is an hour old")
}
