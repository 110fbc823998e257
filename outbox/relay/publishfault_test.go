package relay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// The two kinds of database for faults that aren't the database's.
var kinds = []string{"pgx", "sqlite-wal"}

// F8, F14: the publisher fails, in each way that there is, for one event or for all, and recovers.
func TestPublisherFaultsAreContained(t *testing.T) {
	t.Parallel()
	type fault func(ctx context.Context, batch []outbox.Event) []error
	everyError := func(batch []outbox.Event) []error {
		errs := make([]error, len(batch))
		for i := range errs {
			errs[i] = errors.New("away")
		}
		return errs
	}
	faults := map[string]fault{
		"panics":             func(context.Context, []outbox.Event) []error { panic("secret") },
		"panics with nil":    func(context.Context, []outbox.Event) []error { panic(nil) },
		"ends its goroutine": func(context.Context, []outbox.Event) []error { runtime.Goexit(); return nil },
		"hangs":              func(ctx context.Context, _ []outbox.Event) []error { <-ctx.Done(); return []error{} },
		"hangs, and tells each event": func(ctx context.Context, batch []outbox.Event) []error {
			<-ctx.Done()
			errs := make([]error, len(batch))
			for i := range errs {
				errs[i] = ctx.Err()
			}
			return errs
		},
		"returns a nil of some type": func(_ context.Context, batch []outbox.Event) []error {
			errs := make([]error, len(batch))
			for i := range errs {
				errs[i] = (*url.Error)(nil) // whose text can't be had
			}
			return errs
		},
		"returns too many": func(_ context.Context, batch []outbox.Event) []error { return make([]error, len(batch)+1) },
		"fails":            func(_ context.Context, batch []outbox.Event) []error { return everyError(batch) },
	}
	for name, f := range faults {
		for _, all := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/all=%v", name, all), func(t *testing.T) {
				t.Parallel()
				db := newDatabase(t, "sqlite-wal")
				db.Migrate(t, *writer)
				db.aggregates(t, 6, 2)
				var broken atomic.Bool
				broken.Store(true)
				var fired atomic.Int64
				r := &recorder{}
				p := publisherFunc(func(ctx context.Context, batch []outbox.Event) []error {
					if broken.Load() {
						for i, e := range batch {
							if all || e.AggregateID == "a3" {
								fired.Add(1)
								if name == "fails" && !all {
									errs := r.Publish(ctx, append(append([]outbox.Event{}, batch[:i]...), batch[i+1:]...))
									return append(append(append([]error{}, errs[:i]...), errors.New("away")), errs[i:]...)
								}
								return f(ctx, batch)
							}
						}
					}
					return r.Publish(ctx, batch)
				})
				cfg := quick()
				cfg.PublishTimeout = 100 * time.Millisecond
				log := &dbtest.Log{}
				cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
				run(t, db.relay(t, p, cfg))
				if all {
					eventually(t, "several failures", func() bool { return fired.Load() > 3 })
					require.Empty(t, r.published())
				} else {
					eventually(t, "the others' events", func() bool { return len(r.published()) == 10 })
					eventually(t, "several failures", func() bool { return fired.Load() > 3 })
					require.Empty(t, r.first("a3"))
					require.Zero(t, db.parked(t, "attempts > 0 AND aggregate_id <> 'a3'"), "the others weren't to blame")
				}
				broken.Store(false)
				db.settled(t)
				require.Zero(t, db.parked(t, "dead_at IS NOT NULL"))
				for a := range 6 {
					require.Equal(t, numbered(2), r.first(fmt.Sprint("a", a)))
				}
				require.NotContains(t, log.String(), "secret")
			})
		}
	}
}

// A publisher that ignores its context is left behind, and the relay goes on.
func TestPublisherThatIgnoresItsContextIsLeftBehind(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "sqlite-wal")
	db.Migrate(t, *writer)
	db.aggregates(t, 3, 1)
	release, returned := make(chan struct{}), make(chan struct{})
	var hung atomic.Bool
	r := &recorder{}
	p := publisherFunc(func(ctx context.Context, batch []outbox.Event) []error {
		if hung.CompareAndSwap(false, true) {
			defer close(returned)
			<-release
			return nil
		}
		return r.Publish(ctx, batch)
	})
	cfg := quick()
	cfg.PublishTimeout = 50 * time.Millisecond
	log := &dbtest.Log{}
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	run(t, db.relay(t, p, cfg))
	db.settled(t)
	require.Contains(t, log.String(), "left behind")
	require.Len(t, r.published(), 3)
	close(release)
	<-returned
}

// F14: by turns, each event several times, and with several relays that come and go.
func TestPublisherThatFailsByTurns(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 10, 3)
		var n int
		r := &recorder{}
		r.fail = func(outbox.Event) error {
			if n++; n%3 != 0 {
				return errors.New("by turns")
			}
			return nil
		}
		stop := run(t, db.relay(t, r, quick()))
		run(t, db.relay(t, r, quick()))
		eventually(t, "some", func() bool { return len(r.published()) > 5 })
		stop()
		run(t, db.relay(t, r, quick()))
		db.settled(t)
		for a := range 10 {
			require.Equal(t, numbered(3), r.first(fmt.Sprint("a", a)))
		}
		require.Len(t, r.published(), 30)
		r.mu.Lock()
		defer r.mu.Unlock()
		require.GreaterOrEqual(t, n, 3*30, "the fault fired: each third try got through")
	})
}

func TestDeadLettersKeepTheirLastErrorAndLetOthersPass(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 3, 3)
		tries := map[string]int{}
		r := &recorder{}
		r.fail = func(e outbox.Event) error {
			tries[e.AggregateID+e.Type]++
			switch {
			case e.Type != "1":
			case e.AggregateID == "a0":
				return fmt.Errorf("attempt %d: %s\x00\xff", tries["a01"], strings.Repeat("é", 2000))
			case e.AggregateID == "a1":
				return outbox.Permanent(outbox.RetryAfter(errors.New("too large"), time.Hour))
			}
			return nil
		}
		cfg := quick()
		cfg.MaxAttempts = 3
		var mu sync.Mutex
		dead := map[string]int{}
		cfg.Trace = &relay.Trace{Dead: func(_ context.Context, e outbox.Event, attempts int, err error) {
			mu.Lock()
			defer mu.Unlock()
			dead[e.AggregateID+e.Type] = attempts
		}}
		rel := db.relay(t, r, cfg)
		run(t, rel)
		db.settled(t)
		require.Equal(t, []string{"0", "2"}, r.first("a0"), "a dead letter holds back nothing")
		require.Equal(t, []string{"0", "2"}, r.first("a1"))
		require.Equal(t, numbered(3), r.first("a2"))
		mu.Lock()
		require.Equal(t, map[string]int{"a01": 3, "a11": 1}, dead)
		mu.Unlock()
		require.Equal(t, 2, db.parked(t, "dead_at IS NOT NULL"))
		last := outboxdbtest.One[string](t, db, "SELECT last_error FROM endstate_outbox_parked WHERE aggregate_id = 'a0' AND attempts = 3")
		require.True(t, strings.HasPrefix(last, "attempt 3: éé"), last)
		require.Less(t, len(last), 1100)
		require.Contains(t, outboxdbtest.One[string](t, db, "SELECT last_error FROM endstate_outbox_parked WHERE aggregate_id = 'a1' AND attempts = 1"), "too large")
	})
}

// 10,000 events behind one that fails leave the index that a relay reads, so that they are passed over once.
func TestManyBehindOneFailureStarveNobody(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		behind := 9_999
		if db.SQLite {
			behind = 999 // which takes as long
		}
		events := make([]outbox.Event, behind+1)
		for i := range events {
			events[i] = event(fmt.Sprint(i), "")
			events[i].AggregateID = "blocked"
		}
		db.Put(t, events...)
		db.aggregates(t, 500, 2)
		var broken atomic.Bool
		broken.Store(true)
		r := &recorder{}
		r.fail = func(e outbox.Event) error {
			if broken.Load() && e.AggregateID == "blocked" {
				return errors.New("refused")
			}
			return nil
		}
		var tried atomic.Int64
		cfg := quick()
		cfg.MaxAttempts = 1_000_000
		cfg.Trace = &relay.Trace{Failed: func(context.Context, outbox.Event, int, error, time.Duration) { tried.Add(1) }}
		run(t, db.relay(t, r, cfg))
		eventually(t, "the others", func() bool { return len(r.published()) == 1000 })
		eventually(t, "those behind are out of the way", func() bool {
			return db.parked(t, "next_attempt_at IS NULL AND dead_at IS NULL") == behind
		})
		before := tried.Load()
		eventually(t, "the failed one is tried again", func() bool { return tried.Load() > before })
		require.Equal(t, 1, db.parked(t, "attempts > 0"), "only the first one is tried")
		db.aggregates(t, 500, 1)
		eventually(t, "later ones", func() bool { return len(r.published()) == 1500 })
		broken.Store(false)
		eventually(t, "those behind, after it", func() bool { return len(r.first("blocked")) > 100 })
		require.Equal(t, numbered(101), r.first("blocked")[:101])
	})
}

// Many aggregates that fail, in front of one that doesn't, look like a broker that is away. They hold it back for some growing
// probes, and not for one probe after the other.
func TestManyFailuresStarveNobody(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		var events []outbox.Event
		for i := 0; len(events) < 300; i++ {
			e := event(fmt.Sprint(i), "")
			e.AggregateID = fmt.Sprint("failing ", i)
			if len(events) == 299 {
				e.AggregateID = fmt.Sprint("healthy ", i)
			}
			if outbox.Partition(e.AggregateType, e.AggregateID) == 0 {
				events = append(events, e)
			}
		}
		db.Put(t, events...)
		healthy := events[299].AggregateID
		r := &recorder{}
		r.fail = func(e outbox.Event) error {
			if e.AggregateID != healthy {
				return errors.New("refused")
			}
			return nil
		}
		cfg := quick()
		cfg.BatchSize, cfg.MinBackoff, cfg.MaxBackoff = 100, time.Hour, time.Hour
		p := &counting{Publisher: r}
		run(t, db.relay(t, p, cfg))
		eventually(t, "the healthy one", func() bool { return len(r.first(healthy)) == 1 })
		require.Less(t, p.calls.Load(), int64(10), "batches: a full one, and from ten events up to a full one again")
	})
}

// counting counts the batches that its Publisher is handed.
type counting struct {
	outbox.Publisher
	calls atomic.Int64
}

func (p *counting) Publish(ctx context.Context, batch []outbox.Event) []error {
	p.calls.Add(1)
	return p.Publisher.Publish(ctx, batch)
}

func TestUnorderedHoldsBackNothing(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 5, 5)
		r := &recorder{}
		var broken atomic.Bool
		broken.Store(true)
		r.fail = func(e outbox.Event) error {
			if broken.Load() && e.Type == "1" {
				return errors.New("refused")
			}
			return nil
		}
		cfg := quick()
		cfg.Unordered = true
		run(t, db.relay(t, r, cfg))
		eventually(t, "the others", func() bool { return len(r.published()) == 20 })
		require.Equal(t, []string{"0", "2", "3", "4"}, r.first("a2"))
		broken.Store(false)
		db.settled(t)
		require.Len(t, r.published(), 25)
	})
}

// A batch is bounded by its bytes, too.
func TestBatchesOfLargeEventsAreSmall(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		var events []outbox.Event
		for range 12 {
			e := event("large", "")
			e.AggregateID, e.ContentType, e.Payload = uuid.NewString(), "text/plain", make([]byte, 1<<20)
			events = append(events, e)
		}
		db.Put(t, events...)
		var largest atomic.Int64
		var n atomic.Int64
		p := publisherFunc(func(_ context.Context, batch []outbox.Event) []error {
			largest.Store(max(largest.Load(), int64(len(batch))))
			n.Add(int64(len(batch)))
			return nil
		})
		run(t, db.relay(t, p, quick()))
		db.settled(t)
		require.EqualValues(t, 12, n.Load())
		require.LessOrEqual(t, largest.Load(), int64(8))
	})
}
