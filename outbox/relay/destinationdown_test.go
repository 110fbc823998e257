package relay_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// destination is a publisher whose destination can be away, with an error.
type destination struct {
	away         atomic.Pointer[func(n int64) error] // why it takes nothing at the nth call
	calls, taken atomic.Int64
}

func (d *destination) Publish(_ context.Context, batch []outbox.Event) []error {
	n := d.calls.Add(1)
	if away := d.away.Load(); away != nil {
		errs := make([]error, len(batch))
		for i := range errs {
			errs[i] = (*away)(n)
		}
		return errs
	}
	d.taken.Add(int64(len(batch)))
	return nil
}

// F36: an outage, whatever its failures are called, costs no event an attempt and the database no write, however often the
// destination is tried: here as often as MaxAttempts many times over. With its return all goes out at once, in full batches.
func TestOutageCostsNothing(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, writer, func(t *testing.T, db *database) {
		const events, aggregates, tries = 2000, 200, 80
		db.aggregates(t, aggregates, events/aggregates)
		gone := errors.New("410 gone")
		away := func(n int64) error {
			switch n * 4 / tries {
			case 0:
				return errors.New("connection refused")
			case 1:
				return outbox.Permanent(gone)
			case 2:
				return outbox.RetryAfter(errors.New("503"), time.Millisecond)
			}
			return map[int64]error{0: gone, 1: outbox.Permanent(gone), 2: context.DeadlineExceeded}[n%3]
		}
		d := &destination{}
		d.away.Store(&away)
		cfg := quick()
		relay.SetOutage(cfg, time.Microsecond, time.Millisecond)
		cfg.MaxAttempts = 3
		written := func() int { // by updates and deletions of events, and by anything in parked
			if db.SQLite {
				return outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox_parked")
			}
			return outboxdbtest.One[int](t, db, `SELECT sum(pg_stat_get_tuples_updated(c) + pg_stat_get_tuples_deleted(c))::int + pg_stat_get_tuples_inserted('endstate_outbox_parked'::regclass)::int
+ pg_relation_size('endstate_outbox_parked')::int FROM unnest(ARRAY['endstate_outbox', 'endstate_outbox_parked']::regclass[]) c GROUP BY ()`)
		}
		stop := run(t, db.relay(t, d, cfg))
		eventually(t, "an outage", func() bool { return d.calls.Load() >= tries })
		stats, err := db.admin(t).Stats(context.Background())
		require.NoError(t, err)
		require.Len(t, stats, 1)
		require.Zero(t, stats[0].Dead)
		require.Zero(t, stats[0].Retrying)
		require.EqualValues(t, events, stats[0].Pending)
		require.NotNil(t, outboxdbtest.One[*string](t, db, "SELECT max(blocked_why) FROM endstate_outbox_cursors"), "and why is written down")
		require.Zero(t, written())

		d.away.Store(nil)
		before := d.calls.Load()
		eventually(t, "all is out", func() bool { return d.taken.Load() == events })
		// Ten of each aggregate take ten calls, of each half of the partitions.
		require.Less(t, d.calls.Load()-before, int64(aggregates), "with few more calls than that takes, and not one for each aggregate")
		stop()
		if !db.SQLite {
			db.Pool.Reset() // sessions that end say what they did
			eventually(t, "figures", func() bool {
				return outboxdbtest.One[int](t, db, "SELECT pg_stat_get_tuples_inserted('endstate_outbox'::regclass)::int") == events
			})
		}
		require.Zero(t, written())
		require.Zero(t, db.pending(t))
	})
}

// F36: a receiver that takes twenty events a second, and answers 429 with Retry-After beyond, gets about as many, and is
// asked hardly more often.
func TestReceiverThatTakesTwentyASecond(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx"}, writer, func(t *testing.T, db *database) {
		const rate, seconds = 20, 10
		db.aggregates(t, 500, 4)
		var mu sync.Mutex
		var start, last time.Time
		var tokens float64
		taken, refused, first := 0, 0, 0
		publish := outbox.PublisherFunc(func(context.Context, outbox.Event) error {
			mu.Lock()
			defer mu.Unlock()
			now := time.Now()
			if start.IsZero() {
				start, last, tokens = now, now, rate/4
			}
			tokens = min(rate/4, tokens+now.Sub(last).Seconds()*rate)
			last = now
			if tokens < 1 {
				if refused++; taken <= rate/2 {
					first = refused // of the first batch, at which nobody knows
				}
				return outbox.RetryAfter(errors.New("429 too many requests"), time.Second)
			}
			tokens--
			taken++
			return nil
		})
		run(t, db.relay(t, publish, quick()))
		var ended time.Duration
		eventually(t, "some seconds", func() bool {
			mu.Lock()
			defer mu.Unlock()
			ended = time.Since(start)
			return !start.IsZero() && ended > seconds*time.Second
		})
		mu.Lock()
		defer mu.Unlock()
		what := fmt.Sprintf("%d taken and %d refused in %v, %d of them at first", taken, refused, ended, first)
		t.Log(what)
		require.Greater(t, float64(taken), rate*ended.Seconds()/2, what)
		require.Positive(t, first)
		require.LessOrEqual(t, refused-first, taken, what)
		require.Zero(t, db.parked(t, "attempts > 0"), "that is nobody's fault")
	})
}
