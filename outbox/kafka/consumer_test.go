package kafka

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/endstate-go/endstate/migrations"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// sink is an inbox's Handler that notes what it is given.
type sink struct {
	mu     sync.Mutex
	done   []outbox.Event // handled, in their order
	calls  map[uuid.UUID]int
	answer func(ctx context.Context, call int, e outbox.Event) error
}

func (s *sink) handle(ctx context.Context, e outbox.Event) (inbox.Result, error) {
	s.mu.Lock()
	if s.calls == nil {
		s.calls = map[uuid.UUID]int{}
	}
	s.calls[e.ID]++
	call := s.calls[e.ID]
	s.mu.Unlock()
	if s.answer != nil {
		if err := s.answer(ctx, call, e); err != nil {
			return inbox.Result{}, err
		}
	}
	s.mu.Lock()
	s.done = append(s.done, e)
	s.mu.Unlock()
	return inbox.Result{Outcome: inbox.Applied, First: e.ID}, nil
}

func (s *sink) handled() []outbox.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]outbox.Event(nil), s.done...)
}

// running runs a Consumer of the group "results" until the test, or the function that it returns, ends it.
func (c *cluster) running(handle inbox.Handler, configure ...func(*ConsumerConfig)) (stop func()) {
	c.t.Helper()
	cfg := &ConsumerConfig{Group: "results", RetryAfter: 20 * time.Millisecond, Logger: silent}
	for _, f := range configure {
		f(cfg)
	}
	consumer, err := NewConsumer(handle, cfg, c.member()...)
	require.NoError(c.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := consumer.Run(ctx); err != nil {
			c.t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	c.t.Cleanup(stop)
	return stop
}

// member are the options of a group's member in tests, where one that died is noticed soon.
func (c *cluster) member() []kgo.Opt { return append(memberOf(c.ListenAddrs()), c.dials...) }

func memberOf(seeds []string) []kgo.Opt {
	return append([]kgo.Opt{kgo.SeedBrokers(seeds...)}, kgo.SessionTimeout(3*time.Second), kgo.HeartbeatInterval(50*time.Millisecond), kgo.FetchMaxWait(100*time.Millisecond), kgo.AutoCommitInterval(100*time.Millisecond))
}

func (c *cluster) publish(batch []outbox.Event) {
	c.t.Helper()
	p := c.publisher(&Config{AckTimeout: time.Minute})
	require.NoError(c.t, errors.Join(p.Publish(c.t.Context(), batch)...))
}

// committed is how many records of a topic the group has committed.
func (c *cluster) committed(topic string) (n int64) {
	if info := c.GroupInfo("results"); info != nil {
		for _, commit := range info.Commits[topic] {
			n += commit.Offset
		}
	}
	return n
}

func (c *cluster) eventuallyCommitted(n int) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("%d records are committed", n), func() bool { return c.committed(DefaultTopic) == int64(n) })
}

// inboxed is a Handler that counts each event's effects in a table, by the inbox in the same transaction.
func inboxed(t *testing.T, db *sql.DB) inbox.Handler {
	t.Helper()
	require.NoError(t, migrations.ApplySQL(t.Context(), db, ""))
	_, err := db.Exec(`CREATE TABLE IF NOT EXISTS credits (event text)`)
	require.NoError(t, err)
	table, err := inbox.NewTableSQL(db, &inbox.TableConfig{Consumer: "results", Logger: silent})
	require.NoError(t, err)
	return inbox.Handle(table, func(ctx context.Context, tx *sql.Tx, e outbox.Event) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO credits VALUES (?)`, e.ID.String())
		return err
	})
}

func requireOnceEach(t *testing.T, db *sql.DB, n int) {
	t.Helper()
	var all, different int
	require.NoError(t, db.QueryRow(`SELECT count(*), count(DISTINCT event) FROM credits`).Scan(&all, &different))
	require.Equal(t, n, all)
	require.Equal(t, n, different)
}

// Everything is published twice, to a group of two with one table inbox.
func TestConsumersApplyEachEventOnce(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	db := newSQLite(t)
	handle := inboxed(t, db)
	batch := events(50)
	c.publish(batch)
	c.publish(batch)
	c.running(handle)
	c.running(handle)
	c.eventuallyCommitted(100)
	requireOnceEach(t, db, 50)
}

// An offset is committed after the handler has returned, and not before.
func TestAnOffsetIsCommittedAfterTheEffect(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
	c.publish(ofAggregates(3, "a"))
	inside, goOn := make(chan struct{}), make(chan struct{})
	s := sink{answer: func(_ context.Context, _ int, e outbox.Event) error {
		if string(e.Payload) == "1" {
			close(inside)
			<-goOn
		}
		return nil
	}}
	c.running(s.handle)
	<-inside
	c.eventuallyCommitted(1)
	commits := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Observe: true, Count: -1})
	require.NoError(t, commits.Wait(t.Context(), 5)) // five heartbeats are two commits' time
	require.EqualValues(t, 1, c.committed(DefaultTopic))
	close(goOn)
	c.eventuallyCommitted(3)
	require.Equal(t, upTo(3), numbers(s.handled(), "a"))
}

func TestAFailureIsTriedAgainInItsOrder(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
	c.publish(ofAggregates(5, "a", "b"))
	s := sink{answer: func(_ context.Context, call int, e outbox.Event) error {
		if call < 3 {
			return fmt.Errorf("attempt %d: %w", call, inbox.ErrInProgress)
		}
		return nil
	}}
	c.running(s.handle)
	c.eventuallyCommitted(10)
	require.Equal(t, upTo(5), numbers(s.handled(), "a"))
	require.Equal(t, upTo(5), numbers(s.handled(), "b"))
}

// A record that can never be handled, or fails too often, goes to the dead letters with the reason, and the others go on.
func TestAPoisonRecordBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic, "dead"))
	batch := ofAggregates(4, "a")
	c.publish(batch[:2])
	client, err := kgo.NewClient(c.seeds()...)
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: DefaultTopic, Key: []byte("k"), Value: []byte("hello"), Headers: []kgo.RecordHeader{{Key: "own", Value: []byte("x")}, {Key: HeaderDeadError, Value: []byte("forged")}}}).FirstErr())
	c.publish(batch[2:])
	s := sink{answer: func(_ context.Context, _ int, e outbox.Event) error {
		switch e.ID {
		case batch[0].ID:
			return outbox.Permanent(errors.New("no such\naccount"))
		case batch[2].ID:
			return errors.New("not now")
		}
		return nil
	}}
	log := &recorded{}
	c.running(s.handle, func(cfg *ConsumerConfig) { cfg.DeadLetters, cfg.MaxAttempts, cfg.Logger = "dead", 3, log.logger() })
	c.eventuallyCommitted(5)
	for offset, attempt := range map[int]int{0: 1, 2: 1, 3: 3} { // what no repetition fixes isn't repeated
		require.True(t, log.has(fmt.Sprintf(`msg="kafka: record became a dead letter" group=results topic=events partition=0 offset=%d attempt=%d `, offset, attempt)), "%s", &log.text)
	}
	require.Equal(t, []int{1, 3}, numbers(s.handled(), "a"))
	require.Equal(t, 1, s.calls[batch[0].ID])
	require.Equal(t, 3, s.calls[batch[2].ID])
	letters, err := c.records(t.Context(), "dead")
	require.NoError(t, err)
	require.Len(t, letters, 3)
	reasons := []string{"outbox: permanent failure: no such\naccount", `kafka: not an event: specversion is "", not 1.0`, "not now"}
	for i, letter := range letters {
		headers := map[string]string{}
		for _, h := range letter.Headers {
			require.NotContains(t, headers, h.Key, "once")
			headers[h.Key] = string(h.Value)
		}
		require.Equal(t, reasons[i], headers[HeaderDeadError])
		require.Equal(t, []string{DefaultTopic, "0", fmt.Sprint([]int{0, 2, 3}[i]), "results"}, []string{headers[HeaderDeadTopic], headers[HeaderDeadPartition], headers[HeaderDeadOffset], headers[HeaderDeadGroup]})
	}
	require.Equal(t, "hello", string(letters[1].Value))
	require.Equal(t, "k", string(letters[1].Key))
	e, err := Decode(letters[0].Headers, letters[0].Value)
	require.NoError(t, err)
	require.Equal(t, batch[0], e, "a consumer of the dead letters gets it as it was")
}

// Without a topic for dead letters a poison record is held, and its partition waits, in order; so it does where the topic can't
// take it.
func TestAPoisonRecordIsHeld(t *testing.T) {
	t.Parallel()
	for _, dead := range []string{"", "dead"} {
		t.Run("dead letters in "+dead, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, kfake.SeedTopics(1, DefaultTopic, "dead"))
			refused := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "dead", Err: kerr.TopicAuthorizationFailed, Count: -1})
			batch := ofAggregates(3, "a")
			c.publish(batch)
			var fixed atomic.Bool
			s := sink{answer: func(_ context.Context, _ int, e outbox.Event) error {
				if e.ID == batch[1].ID && !fixed.Load() {
					return outbox.Permanent(errors.New("no such account"))
				}
				return nil
			}}
			log := &recorded{}
			c.running(s.handle, func(cfg *ConsumerConfig) { cfg.DeadLetters, cfg.Logger = dead, log.logger() })
			eventually(t, "it is held", func() bool { return log.has("record is held, and its partition waits") && log.has("attempt=3") })
			require.Equal(t, dead != "", refused.Hits() > 0)
			c.eventuallyCommitted(1)
			require.Equal(t, upTo(1), numbers(s.handled(), "a"))
			fixed.Store(true)
			c.eventuallyCommitted(3)
			require.Equal(t, upTo(3), numbers(s.handled(), "a"))
		})
	}
}

// A consumer that is stopped ends its handler's context, and what it wasn't done with is delivered again.
func TestAStoppedConsumerLosesNothing(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
	c.publish(ofAggregates(3, "a"))
	inside := make(chan struct{})
	first := sink{answer: func(ctx context.Context, _ int, e outbox.Event) error {
		if string(e.Payload) == "1" {
			close(inside)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}}
	stop := c.running(first.handle)
	<-inside
	stop()
	require.EqualValues(t, 1, c.committed(DefaultTopic), "what was handled is committed")
	require.Empty(t, c.GroupInfo("results").Members, "and the group was told")
	var s sink
	c.running(s.handle)
	c.eventuallyCommitted(3)
	require.Equal(t, upTo(3)[1:], numbers(s.handled(), "a"))
}

// A partition with many records in front of a slow handler is read on as they are handled.
func TestASlowHandlerIsNotFlooded(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
	const n = 5 * manyQueued
	c.publish(ofAggregates(n, "a"))
	gate := make(chan struct{})
	s := sink{answer: func(context.Context, int, outbox.Event) error { <-gate; return nil }}
	c.running(s.handle)
	gate <- struct{}{}
	close(gate)
	c.eventuallyCommitted(n)
	require.Equal(t, upTo(n), numbers(s.handled(), "a"))
}

func TestConsumerConfigSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	var s sink
	for want, cfg := range map[string]*ConsumerConfig{
		"ConsumerConfig is nil":           nil,
		"Group is empty":                  {},
		`Topics has "a b"`:                {Group: "g", Topics: []string{"a b"}},
		`DeadLetters is "a b"`:            {Group: "g", DeadLetters: "a b"},
		"DeadLetters is one of Topics":    {Group: "g", DeadLetters: DefaultTopic},
		"MaxAttempts is -1":               {Group: "g", MaxAttempts: -1},
		"RetryAfter is 1ns, the shortest": {Group: "g", RetryAfter: 1},
		"HandlerTimeout is -1ns":          {Group: "g", HandlerTimeout: -1},
		"HandOverTimeout is -1ns":         {Group: "g", HandOverTimeout: -1},
	} {
		_, err := NewConsumer(s.handle, cfg)
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, want)
	}
	_, err := NewConsumer(nil, &ConsumerConfig{Group: "g"})
	require.ErrorIs(t, err, ErrConfig)
	_, err = NewConsumer(s.handle, &ConsumerConfig{Group: "g"}, kgo.SeedBrokers())
	require.ErrorIs(t, err, ErrConfig)
}

// F49: a handler whose database has gone silent holds its partition up. It is given up, and the record handled again.
func TestAHandlerThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
	c.publish(ofAggregates(3, "a"))
	first := true // a partition's records are handled one after the other
	s := sink{answer: func(ctx context.Context, _ int, _ outbox.Event) error {
		if first {
			first = false
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}}
	c.running(s.handle, func(cfg *ConsumerConfig) { cfg.HandlerTimeout = 2 * time.Second })
	require.Eventually(t, func() bool { return c.committed(DefaultTopic) == 3 }, 3*time.Minute, 20*time.Millisecond, "all is committed")
	require.Equal(t, upTo(3), numbers(s.handled(), "a"))
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := 0
	for _, n := range s.calls {
		calls += n
	}
	require.Greater(t, calls, 3, "the fault fired: one call was in vain")
}

// F49: the brokers' answers stop, on connections that stay. The member says so, and goes on over others.
func TestSilentBrokersHoldUpNoMember(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
	c.dials = []kgo.Opt{kgo.Dialer(c.wire.dial), kgo.DisableClientMetrics()}
	c.publish(ofAggregates(3, "a"))
	s, log := new(sink), new(recorded)
	c.running(s.handle, func(cfg *ConsumerConfig) { cfg.Logger = log.logger() })
	c.eventuallyCommitted(3)
	release := sync.OnceFunc(c.wire.hold())
	defer release()
	require.Eventually(t, func() bool { return log.has("reading failed, trying again") }, 2*time.Minute, 20*time.Millisecond, "it says so")
	release()
	c.publish(ofAggregates(3, "b"))
	require.Eventually(t, func() bool { return c.committed(DefaultTopic) == 6 }, 3*time.Minute, 20*time.Millisecond, "all is committed")
}
