package relay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// F36: while nothing is taken, nothing is counted and nothing written, whatever the failures are called; and when the destination
// is back, everything flows at once.
func TestAnOutageIsNobodysFault(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]error{
		"away": errors.New("away"), "410": outbox.Permanent(errors.New("gone")), "429": outbox.RetryAfter(errors.New("too many"), 10*time.Millisecond),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, kinds, writer, func(t *testing.T, db *database) {
				db.aggregates(t, 20, 2)
				var down atomic.Bool
				var refused atomic.Int64
				r := &recorder{fail: func(outbox.Event) error {
					if down.Load() {
						refused.Add(1)
						return failure
					}
					return nil
				}}
				cfg := quick()
				cfg.MaxAttempts = 3
				blocked := make(chan error, 10)
				cfg.Trace = &relay.Trace{Blocked: func(_ context.Context, err error) { blocked <- err }}
				run(t, db.relay(t, r, cfg))
				eventually(t, "the first ones", func() bool { return len(r.published()) == 40 })
				down.Store(true)
				db.aggregates(t, 300, 3)
				require.ErrorIs(t, <-blocked, failure)
				eventually(t, "it is kept", func() bool {
					return outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox_cursors WHERE blocked_since IS NOT NULL AND blocked_by IS NOT NULL AND blocked_why IS NOT NULL") == 8
				})
				before := refused.Load()
				eventually(t, "more probes", func() bool { return refused.Load() > before+20 })
				require.Zero(t, db.parked(t, "1 = 1"))
				if !db.SQLite {
					require.Zero(t, outboxdbtest.One[int](t, db, "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::int FROM pg_stat_user_tables WHERE relname = 'endstate_outbox_parked'"))
					require.Zero(t, outboxdbtest.One[int](t, db, "SELECT (n_tup_upd + n_tup_del)::int FROM pg_stat_user_tables WHERE relname = 'endstate_outbox'"))
				}
				down.Store(false)
				require.NoError(t, <-blocked)
				db.settled(t)
				require.Zero(t, db.parked(t, "1 = 1"))
				for a := range 300 {
					require.Len(t, r.first(fmt.Sprint("a", a)), 3)
				}
				require.Len(t, r.published(), 940, "each once")
				require.Zero(t, outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox_cursors WHERE blocked_since IS NOT NULL"))
			})
		})
	}
}

// A receiver that takes 20 a second, and says so, gets about as many, and few too many.
func TestRetryAfterSlowsTheSubscriptionDown(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "sqlite-wal")
	db.Migrate(t, *writer)
	db.aggregates(t, 150, 1)
	var mu sync.Mutex
	var second time.Time
	var inSecond, refused int
	r := &recorder{fail: func(outbox.Event) error {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(second) > time.Second {
			second, inSecond = time.Now(), 0
		}
		if inSecond++; inSecond > 20 {
			refused++
			return outbox.RetryAfter(errors.New("too many"), time.Second)
		}
		return nil
	}}
	cfg := quick()
	cfg.BatchSize = 50
	start := time.Now()
	run(t, db.relay(t, r, cfg))
	db.settled(t)
	took := time.Since(start)
	require.Less(t, took, 60*time.Second)
	require.Len(t, r.published(), 150)
	mu.Lock()
	defer mu.Unlock()
	require.Less(t, refused, 150)
	require.Zero(t, db.parked(t, "1 = 1"))
}

// An event that fails at the end of the log, where nothing can be compared with it, is to blame only if the destination had taken
// something shortly before.
func TestTheLastEventFails(t *testing.T) {
	t.Parallel()
	for _, trusted := range []bool{true, false} {
		t.Run(fmt.Sprint("trusted=", trusted), func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, "sqlite-wal")
			db.Migrate(t, *writer)
			if trusted {
				db.aggregates(t, 5, 1)
			}
			bad := event("bad", "")
			db.Put(t, bad)
			var tries atomic.Int64
			r := &recorder{fail: func(e outbox.Event) error {
				if e.Type == "bad" {
					tries.Add(1)
					return outbox.Permanent(errors.New("refused"))
				}
				return nil
			}}
			cfg := quick()
			relay.SetPatience(cfg, 200*time.Millisecond)
			run(t, db.relay(t, r, cfg))
			if trusted {
				eventually(t, "it is dead", func() bool { return db.parked(t, "dead_at IS NOT NULL AND attempts = 1") == 1 })
				require.GreaterOrEqual(t, tries.Load(), int64(3))
				return
			}
			eventually(t, "many tries", func() bool { return tries.Load() > 6 })
			require.Zero(t, db.parked(t, "1 = 1"))
			other := event("good", "")
			other.AggregateID = "other"
			db.Put(t, other)
			eventually(t, "another one tells", func() bool { return db.parked(t, "dead_at IS NOT NULL") == 1 })
		})
	}
}

// Two destinations are two subscriptions, and each gets all. A second one in the same subscription is refused.
func TestTwoDestinations(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 100, 10)
		publishers := map[string]*recorder{}
		for _, name := range []string{"default", "partner"} {
			r := &recorder{}
			publishers[name] = r
			cfg := quick()
			cfg.Subscription, cfg.Destination = name, "https://user@"[:8]+name+".example/path"
			rel := db.relay(t, r, cfg)
			stop := run(t, rel)
			defer stop()
		}
		for name, r := range publishers {
			eventually(t, name, func() bool { return len(r.published()) == 1000 })
			for a := range 100 {
				require.Equal(t, numbered(10), r.first(fmt.Sprint("a", a)))
			}
		}
		require.Equal(t, "https://partner.example", outboxdbtest.One[string](t, db, "SELECT destination FROM endstate_outbox_subscriptions WHERE name = 'partner'"))
		cfg := quick()
		cfg.Destination = "https://elsewhere.example"
		err := db.relay(t, &recorder{}, cfg).Run(t.Context())
		require.ErrorIs(t, err, relay.ErrDestination)
		require.ErrorContains(t, err, `running relays, which publish to "https://default.example", not to "https://elsewhere.example"`)
	})
}

func TestASubscriptionOfSomeTypes(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		var events []outbox.Event
		for i := range 300 {
			e := event([]string{"assessment.done", "billing.due", "assess_ent.x", "exact"}[i%4], "")
			e.AggregateID = fmt.Sprint(i % 7)
			events = append(events, e)
		}
		db.Put(t, events...)
		r := &recorder{}
		cfg := quick()
		cfg.Types, cfg.BatchSize = []string{"assessment.*", "exact"}, 16
		run(t, db.relay(t, r, cfg))
		db.settled(t)
		require.Len(t, r.published(), 150)
		require.False(t, slices.ContainsFunc(r.published(), func(e outbox.Event) bool { return e.Type == "billing.due" || e.Type == "assess_ent.x" }))
	})
}

func TestASubscriptionStartsWhereItSays(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 10, 1)
		time.Sleep(20 * time.Millisecond) // the times below are between the events'
		at := outboxdbtest.One[string](t, db, "SELECT CAST(clock AS text) FROM (SELECT "+map[bool]string{true: "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')", false: "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"}[db.SQLite]+" AS clock) c")
		time.Sleep(20 * time.Millisecond)
		db.aggregates(t, 7, 1)
		for start, want := range map[relay.Start]int{relay.Begin: 18, relay.End: 1, relay.Start(at): 8} {
			r := &recorder{}
			cfg := quick()
			cfg.Subscription, cfg.Start = string(start), start
			defer run(t, db.relay(t, r, cfg))()
			eventually(t, "it is placed", func() bool {
				return outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox_cursors WHERE placements = 0 AND subscription = '"+string(start)+"'") == 8
			})
			defer func() {
				eventually(t, string(start), func() bool { return len(r.published()) == want })
			}()
		}
		db.Put(t, event("new", ""))
	})
}
