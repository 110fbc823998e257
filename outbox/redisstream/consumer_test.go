package redisstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/inbox/inboxredis"
)

// sink is an inbox's Handler that counts.
type sink struct {
	mu     sync.Mutex
	calls  map[uuid.UUID]int
	begun  atomic.Int64
	total  atomic.Int64 // returned
	answer func(call int, e outbox.Event) error
}

func (s *sink) handle(_ context.Context, e outbox.Event) (inbox.Result, error) {
	s.mu.Lock()
	if s.calls == nil {
		s.calls = map[uuid.UUID]int{}
	}
	s.calls[e.ID]++
	s.begun.Add(1)
	call := s.calls[e.ID]
	s.mu.Unlock()
	var err error
	if s.answer != nil {
		err = s.answer(call, e)
	}
	s.total.Add(1)
	return inbox.Result{Outcome: inbox.Applied, First: e.ID}, err
}

// member makes a member of the group "results", which reclaims soon.
func member(t *testing.T, client redis.UniversalClient, handle inbox.Handler, configure ...func(*ConsumerConfig)) *Consumer {
	t.Helper()
	cfg := &ConsumerConfig{Group: "results", RetryAfter: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range configure {
		f(cfg)
	}
	c, err := NewConsumer(client, handle, cfg)
	require.NoError(t, err)
	return c
}

// running runs members until the test, or the function that it returns, ends them.
func running(t *testing.T, members ...*Consumer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for _, c := range members {
		group.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	stop = func() {
		cancel()
		group.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func publish(t *testing.T, client redis.UniversalClient, batch []outbox.Event) {
	t.Helper()
	p, err := New(client, nil)
	require.NoError(t, err)
	require.NoError(t, errors.Join(p.Publish(t.Context(), batch)...))
}

func pending(client redis.UniversalClient) int64 {
	summary, err := client.XPending(context.Background(), DefaultStream, "results").Result()
	if err != nil {
		return -1
	}
	return summary.Count
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, time.Minute, 5*time.Millisecond, what)
}

// Everything is published twice, to a group of two members, whose inbox drops what it has had.
func TestAGroupHandlesEachEventOnce(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	batch := events(200)
	publish(t, rdb, batch)
	publish(t, rdb, batch)
	store, err := inboxredis.New(rdb, "")
	require.NoError(t, err)
	way, err := inbox.NewClaims(store, &inbox.ClaimsConfig{Consumer: "results", Wait: -1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	var s sink
	handle := inbox.Handle(way, func(ctx context.Context, e outbox.Event) error { _, err := s.handle(ctx, e); return err })
	running(t, member(t, rdb, handle), member(t, rdb, handle))
	eventually(t, "all is acknowledged", func() bool { return s.total.Load() >= 200 && pending(rdb) == 0 })
	require.Len(t, s.calls, 200)
	for id, n := range s.calls {
		require.Equal(t, 1, n, id)
	}
	require.Zero(t, rdb.XLen(t.Context(), dead).Val())
}

// A member read events and died; another one gets them when they have rested.
func TestWhatADeadMemberLeftIsReclaimed(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	publish(t, rdb, events(40))
	require.NoError(t, rdb.XGroupCreate(t.Context(), DefaultStream, "results", "0").Err())
	left, err := rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "results", Consumer: "dead", Streams: []string{DefaultStream, ">"}, Count: 30}).Result()
	require.NoError(t, err)
	require.Len(t, left[0].Messages, 30)
	var s sink
	running(t, member(t, rdb, s.handle))
	eventually(t, "all is acknowledged", func() bool { return s.total.Load() == 40 && pending(rdb) == 0 })
	require.Len(t, s.calls, 40)
}

// A handler that takes longer than RetryAfter keeps its event: the other member doesn't get it.
func TestAnEventThatIsBeingHandledIsNotReclaimed(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	publish(t, rdb, events(1))
	s := sink{answer: func(int, outbox.Event) error { time.Sleep(8 * time.Second); return nil }} // the length is the point
	long := func(cfg *ConsumerConfig) { cfg.RetryAfter = 3 * time.Second }
	running(t, member(t, rdb, s.handle, long), member(t, rdb, s.handle, long))
	eventually(t, "it is acknowledged", func() bool { return s.total.Load() > 0 && pending(rdb) == 0 })
	require.EqualValues(t, 1, s.begun.Load())
}

// Redis isn't told in time that an entry doesn't rest, as when it was away. The member that is at work on it doesn't claim it.
func TestAnEventThatIsBeingHandledIsNotClaimed(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	publish(t, rdb, events(3))
	require.NoError(t, rdb.XGroupCreate(t.Context(), DefaultStream, "results", "0").Err())
	c := member(t, rdb, new(sink).handle)
	read, err := rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "results", Consumer: c.cfg.Name, Streams: []string{DefaultStream, ">"}}).Result()
	require.NoError(t, err)
	all := read[0].Messages
	r := &reader{Consumer: c, inFlight: map[string]struct{}{all[1].ID: {}}}
	var claimed []string
	eventually(t, "the others are claimed", func() bool {
		entries, err := r.reclaim(t.Context(), 10)
		require.NoError(t, err)
		for _, entry := range entries {
			claimed = append(claimed, entry.ID)
		}
		return len(claimed) > 1
	})
	require.Equal(t, []string{all[0].ID, all[2].ID}, claimed)
}

// Entries that nobody is at work on are deleted, as trimming does: neither are they missed, nor do they hold up others.
func TestPendingEntriesThatAreDeletedHoldUpNoOther(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	publish(t, rdb, events(5))
	require.NoError(t, rdb.XGroupCreate(t.Context(), DefaultStream, "results", "0").Err())
	left, err := rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "results", Consumer: "dead", Streams: []string{DefaultStream, ">"}}).Result()
	require.NoError(t, err)
	require.NoError(t, rdb.XDel(t.Context(), DefaultStream, left[0].Messages[0].ID, left[0].Messages[3].ID).Err())
	var s sink
	running(t, member(t, rdb, s.handle, func(cfg *ConsumerConfig) { cfg.Concurrency = 2 }))
	eventually(t, "the others are acknowledged", func() bool { return s.total.Load() == 3 && pending(rdb) == 0 })
}

func TestAFailureIsDeliveredAgain(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	publish(t, rdb, events(5))
	s := sink{answer: func(call int, _ outbox.Event) error {
		if call < 3 {
			return fmt.Errorf("attempt %d: %w", call, inbox.ErrInProgress)
		}
		return nil
	}}
	running(t, member(t, rdb, s.handle))
	eventually(t, "all is acknowledged", func() bool { return s.total.Load() == 15 && pending(rdb) == 0 })
	require.Zero(t, rdb.XLen(t.Context(), dead).Val())
}

// A poisoned event is delivered so often and no more, the others flow, and it can be delivered again later.
func TestAPoisonedEventBecomesADeadLetterAndIsRedelivered(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	batch := events(10)
	publish(t, rdb, batch)
	poisoned := batch[3]
	var fixed atomic.Bool
	s := sink{answer: func(_ int, e outbox.Event) error {
		if e.ID == poisoned.ID && !fixed.Load() {
			return errors.New("no such account")
		}
		return nil
	}}
	c := member(t, rdb, s.handle, func(cfg *ConsumerConfig) { cfg.MaxDeliveries = 3 })
	running(t, c)
	eventually(t, "it is a dead letter", func() bool { return rdb.XLen(t.Context(), dead).Val() == 1 })
	eventually(t, "the others are acknowledged", func() bool { return pending(rdb) == 0 })
	require.EqualValues(t, 9+3, s.total.Load())
	letters, err := rdb.XRange(t.Context(), dead, "-", "+").Result()
	require.NoError(t, err)
	require.Equal(t, "results", letters[0].Values[FieldDeadGroup])
	require.Equal(t, "it was delivered 3 times", letters[0].Values[FieldDeadError])
	e, err := Decode(letters[0].Values)
	require.NoError(t, err)
	require.Equal(t, poisoned.ID, e.ID)
	require.Equal(t, poisoned.Payload, e.Payload)

	fixed.Store(true)
	other := member(t, rdb, s.handle, func(cfg *ConsumerConfig) { cfg.Group = "another" })
	n, err := other.Redeliver(t.Context(), 10)
	require.NoError(t, err)
	require.Zero(t, n, "it is another group's")
	n, err = c.Redeliver(t.Context(), 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	eventually(t, "it is handled", func() bool { return s.total.Load() == 9+3+1 && pending(rdb) == 0 })
	require.Zero(t, rdb.XLen(t.Context(), dead).Val())
}

// An event that kills each process that handles it is buried without having been handed to this one.
func TestAnEventThatKillsItsMembersIsBuried(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	publish(t, rdb, events(1))
	require.NoError(t, rdb.XGroupCreate(t.Context(), DefaultStream, "results", "0").Err())
	_, err := rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "results", Consumer: "dead", Streams: []string{DefaultStream, ">"}}).Result()
	require.NoError(t, err)
	for range 2 {
		_, _, err := rdb.XAutoClaim(t.Context(), &redis.XAutoClaimArgs{Stream: DefaultStream, Group: "results", Consumer: "dead, too", Start: "0-0"}).Result()
		require.NoError(t, err)
	}
	var s sink
	running(t, member(t, rdb, s.handle, func(cfg *ConsumerConfig) { cfg.MaxDeliveries = 3 }))
	eventually(t, "it is a dead letter", func() bool { return rdb.XLen(t.Context(), dead).Val() == 1 })
	require.Zero(t, s.total.Load())
}

// What can never be handled is a dead letter at once.
func TestWhatIsNoEventOrNeverTakenIsBuriedAtOnce(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	require.NoError(t, rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: DefaultStream, Values: []any{"hello", "world"}}).Err())
	require.NoError(t, rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: DefaultStream, Values: []any{"id", "42", "type", "t", "payload", ""}}).Err())
	publish(t, rdb, events(2))
	answers := []error{inbox.ErrPayloadMismatch, outbox.Permanent(errors.New("no"))}
	s := sink{}
	s.answer = func(int, outbox.Event) error { return answers[s.total.Load()] }
	running(t, member(t, rdb, s.handle, func(cfg *ConsumerConfig) { cfg.Concurrency = 1 }))
	eventually(t, "all are dead letters", func() bool { return rdb.XLen(t.Context(), dead).Val() == 4 })
	require.EqualValues(t, 2, s.total.Load())
	require.Zero(t, pending(rdb))
	letters := rdb.XRange(t.Context(), dead, "-", "+").Val()
	require.Equal(t, "world", letters[0].Values["hello"])
	require.Contains(t, letters[0].Values[FieldDeadError], "not an event")
}

// A member that is stopped ends its handlers, and what they weren't done with is another's.
func TestAStoppedMemberLosesNothing(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	publish(t, rdb, events(1))
	inside := make(chan struct{})
	stop := running(t, member(t, rdb, func(ctx context.Context, _ outbox.Event) (inbox.Result, error) {
		close(inside)
		<-ctx.Done()
		return inbox.Result{}, ctx.Err()
	}))
	<-inside
	stop()
	require.EqualValues(t, 1, pending(rdb))
	var s sink
	running(t, member(t, rdb, s.handle))
	eventually(t, "it is acknowledged", func() bool { return s.total.Load() == 1 && pending(rdb) == 0 })
}

// Redis is killed, and comes back empty: the member makes its group anew, and handles what is published then.
func TestRedisIsKilledAndComesBackEmpty(t *testing.T) {
	t.Parallel()
	server := dbtest.StartRedis(t)
	rdb := client(t, server.Addr())
	publish(t, rdb, events(3))
	var s sink
	running(t, member(t, rdb, s.handle))
	eventually(t, "the first are handled", func() bool { return s.total.Load() == 3 })
	server.Kill()
	require.NoError(t, server.Start())
	eventually(t, "the next are published", func() bool {
		p, err := New(rdb, nil)
		require.NoError(t, err)
		return errors.Join(p.Publish(t.Context(), events(1))...) == nil
	})
	eventually(t, "it is handled", func() bool { return s.total.Load() >= 4 && pending(rdb) == 0 })
}

func TestConsumerConfigSaysWhatIsWrong(t *testing.T) {
	rdb := client(t, "127.0.0.1:1")
	var s sink
	for want, cfg := range map[string]*ConsumerConfig{
		"ConsumerConfig is nil":                             nil,
		"ConsumerConfig.Group is empty":                     {},
		"ConsumerConfig.Concurrency is -1":                  {Group: "g", Concurrency: -1},
		"ConsumerConfig.Concurrency is 9223372036854775807": {Group: "g", Concurrency: math.MaxInt},
		"ConsumerConfig.RetryAfter is 1ms, the shortest is": {Group: "g", RetryAfter: time.Millisecond},
		"ConsumerConfig.MaxDeliveries is -1":                {Group: "g", MaxDeliveries: -1},
		"ConsumerConfig.HandlerTimeout is -1ns":             {Group: "g", HandlerTimeout: -1},
		"ConsumerConfig.DeadLetters is Stream itself":       {Group: "g", Stream: "s", DeadLetters: "s"},
	} {
		_, err := NewConsumer(rdb, s.handle, cfg)
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, want)
	}
	for _, none := range []redis.UniversalClient{nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil)} {
		_, err := NewConsumer(none, s.handle, &ConsumerConfig{Group: "g"})
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, "client is nil")
		_, err = New(none, nil)
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, "client is nil")
	}
	_, err := NewConsumer(rdb, nil, &ConsumerConfig{Group: "g"})
	require.ErrorContains(t, err, "Handler is nil")
}

// An error of 2 MB would be kept with each dead letter, and read again with it.
func TestAnErrorIsQuotedInPart(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	publish(t, rdb, events(1))
	s := sink{answer: func(int, outbox.Event) error {
		return outbox.Permanent(errors.New("no such account" + strings.Repeat("é", 1<<20)))
	}}
	running(t, member(t, rdb, s.handle))
	eventually(t, "it is a dead letter", func() bool { return rdb.XLen(t.Context(), dead).Val() == 1 })
	text := rdb.XRange(t.Context(), dead, "-", "+").Val()[0].Values[FieldDeadError].(string)
	require.Contains(t, text, "no such account")
	require.LessOrEqual(t, len(text), maxError)
	require.True(t, utf8.ValidString(text))
}
