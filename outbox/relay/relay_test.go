package relay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// recorder is a publisher that remembers what it was given, in order, and fails where it is told to.
type recorder struct {
	mu     sync.Mutex
	events []outbox.Event
	fail   func(outbox.Event) error // called with mu held
	block  func(context.Context)
}

func (r *recorder) Publish(ctx context.Context, batch []outbox.Event) []error {
	if r.block != nil {
		r.block(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	errs := make([]error, len(batch))
	for i, e := range batch {
		if name := e.AggregateType + "/" + e.AggregateID; seen[name] {
			errs[i] = outbox.Permanent(errors.New("two events of one aggregate in one batch"))
			continue
		} else {
			seen[name] = true
		}
		if r.fail != nil {
			if errs[i] = r.fail(e); errs[i] != nil {
				continue
			}
		}
		r.events = append(r.events, e)
	}
	return errs
}

func (r *recorder) published() []outbox.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// first are the types of an aggregate's events in the order of their first publications.
func (r *recorder) first(aggregate string) (list []string) {
	for _, e := range r.published() {
		if e.AggregateID == aggregate && !slices.Contains(list, e.Type) {
			list = append(list, e.Type)
		}
	}
	return list
}

// quick is a configuration for tests: what it waits for, it waits for shortly, but its lease lasts on a busy machine.
func quick() *relay.Config {
	return &relay.Config{Logger: slog.New(slog.DiscardHandler), LeaseTTL: time.Minute, PollInterval: 50 * time.Millisecond,
		MinBackoff: 20 * time.Millisecond, MaxBackoff: 100 * time.Millisecond}
}

// mortal is quick with a lease that expires soon, so that events may come twice.
func mortal() *relay.Config {
	cfg := quick()
	cfg.LeaseTTL = 2 * time.Second
	return cfg
}

func (db *database) relay(t testing.TB, p outbox.Publisher, cfg *relay.Config) (rel *relay.Relay) {
	t.Helper()
	var err error
	if db.Pool != nil {
		rel, err = relay.New(db.Pool, p, cfg)
	} else {
		rel, err = relay.NewSQL(db.SQL, p, cfg)
	}
	require.NoError(t, err)
	return rel
}

// run runs a relay, until stop is called or the test ends.
func run(t testing.TB, rel *relay.Relay) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rel.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			assert.NoError(t, <-done)
		})
	}
	t.Cleanup(stop)
	return stop
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			require.Fail(t, "not within ten minutes: "+what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

var writer = &outbox.Writer{}

// pending counts the events that the default subscription has neither published nor given up.
func (db *database) pending(t testing.TB) int {
	t.Helper()
	late := "OR e.seq > c.restored_through AND NOT pg_visible_in_snapshot(e.txid, c.snapshot)"
	if db.SQLite {
		late = ""
	}
	return outboxdbtest.One[int](t, db, `SELECT count(*) FROM endstate_outbox e LEFT JOIN endstate_outbox_cursors c ON c.partition = e.partition AND c.subscription = 'default'
	LEFT JOIN endstate_outbox_parked p ON p.partition = e.partition AND p.seq = e.seq AND p.subscription = 'default'
WHERE p.seq IS NOT NULL AND p.dead_at IS NULL OR p.seq IS NULL AND (c.partition IS NULL OR e.seq > c.position `+late+")")
}

// parked counts the parked events for which a condition holds.
func (db *database) parked(t testing.TB, condition string) int {
	t.Helper()
	return outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox_parked WHERE "+condition)
}

// settled waits until no event waits any more.
func (db *database) settled(t testing.TB) {
	t.Helper()
	eventually(t, "all published or dead", func() bool { return db.pending(t) == 0 })
}

// aggregates puts n events for each of a number of aggregates, in turn.
func (db *database) aggregates(t testing.TB, aggregates, n int) {
	t.Helper()
	var events []outbox.Event
	for i := range n {
		for a := range aggregates {
			e := event(fmt.Sprint(i), "")
			e.AggregateID = fmt.Sprint("a", a)
			events = append(events, e)
		}
	}
	db.Put(t, events...)
}

func numbered(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint(i))
	}
	return list
}

func TestRelayPublishesAllInOrder(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 100, 5)
		r := &recorder{}
		rel := db.relay(t, r, quick())
		stop := run(t, rel)
		db.settled(t)
		db.aggregates(t, 3, 2) // while it runs
		rel.Wake()
		eventually(t, "the later ones", func() bool { return len(r.published()) == 506 })
		db.settled(t)
		stop()
		require.Len(t, r.published(), 506, "each once")
		for a := range 100 {
			require.Equal(t, numbered(5), r.first(fmt.Sprint("a", a)))
		}
		stored := db.Stored(t, *writer)
		for _, e := range r.published() {
			i := slices.IndexFunc(stored, func(s outbox.Event) bool { return s.ID == e.ID })
			e.Headers = map[string]string{}
			require.Equal(t, stored[i], e)
		}
		require.Zero(t, outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox_cursors WHERE owner IS NOT NULL")+outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox_relays"), "the partitions are given back")
	})
}

func TestFailingEventHoldsBackOnlyItsAggregate(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 20, 10)
		var failures int
		broken := true // both under the recorder's lock
		r := &recorder{}
		r.fail = func(e outbox.Event) error {
			if e.AggregateID == "a7" && e.Type == "3" && (broken || failures < 4) {
				failures++
				return errors.New("refused")
			}
			return nil
		}
		run(t, db.relay(t, r, quick()))
		eventually(t, "all but those behind the failed one", func() bool { return len(r.published()) == 193 })
		eventually(t, "those behind wait", func() bool {
			return db.parked(t, "next_attempt_at IS NULL AND dead_at IS NULL") == 6
		})
		require.Equal(t, numbered(3), r.first("a7"))
		e := event("10", "") // a later one
		e.AggregateID = "a7"
		db.Put(t, e)
		r.mu.Lock()
		broken = false
		r.mu.Unlock()
		db.settled(t)
		require.Equal(t, numbered(11), r.first("a7"))
		require.Len(t, r.published(), 201)
		r.mu.Lock()
		require.GreaterOrEqual(t, failures, 4)
		r.mu.Unlock()
		require.Zero(t, db.parked(t, "1 = 1"))
	})
}
