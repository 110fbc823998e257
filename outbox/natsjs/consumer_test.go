package natsjs

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
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

// durable creates the consumer "results", and a stream for dead letters.
func (b *broker) durable(cfg jetstream.ConsumerConfig) jetstream.Consumer {
	b.t.Helper()
	_, err := b.js.CreateOrUpdateStream(b.t.Context(), jetstream.StreamConfig{Name: "DEAD", Subjects: []string{"dead.>"}})
	require.NoError(b.t, err)
	cfg.Durable, cfg.AckPolicy = "results", jetstream.AckExplicitPolicy
	if cfg.AckWait == 0 {
		cfg.AckWait = 5 * time.Second
	}
	consumer, err := b.js.CreateOrUpdateConsumer(b.t.Context(), "EVENTS", cfg)
	require.NoError(b.t, err)
	return consumer
}

// running runs a Consumer until the test, or the function that it returns, ends it.
func (b *broker) running(consumer jetstream.Consumer, handle inbox.Handler, configure ...func(*ConsumerConfig)) (_ *Consumer, stop func()) {
	b.t.Helper()
	cfg := &ConsumerConfig{DeadLetters: "dead.results", RetryAfter: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range configure {
		f(cfg)
	}
	c, err := NewConsumer(b.js, consumer, handle, cfg)
	require.NoError(b.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := c.Run(ctx); err != nil {
			b.t.Error(err)
		}
	})
	stop = func() {
		cancel()
		group.Wait()
	}
	b.t.Cleanup(stop)
	return c, stop
}

func (b *broker) publish(batch []outbox.Event) {
	b.t.Helper()
	p, err := New(b.conn, nil)
	require.NoError(b.t, err)
	require.NoError(b.t, errors.Join(p.Publish(b.t.Context(), batch)...))
}

// idle tells that the consumer has nothing left, delivered or not.
func (b *broker) idle(consumer jetstream.Consumer) func() bool {
	return func() bool {
		info, err := consumer.Info(context.Background())
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0
	}
}

func (b *broker) dead() uint64 {
	b.t.Helper()
	stream, err := b.js.Stream(b.t.Context(), "DEAD")
	require.NoError(b.t, err)
	return stream.CachedInfo().State.Msgs
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, time.Minute, 10*time.Millisecond, what)
}

// Everything is published twice, beyond the stream's duplicate window, to two processes with one table inbox.
func TestConsumersApplyEachEventOnce(t *testing.T) {
	t.Parallel()
	b := startBroker(t, jetstream.StreamConfig{Duplicates: 100 * time.Millisecond})
	db := newSQLite(t)
	_, err := db.Exec(`CREATE TABLE credits (event text)`)
	require.NoError(t, err)
	table, err := inbox.NewTableSQL(db, &inbox.TableConfig{Consumer: "results", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, table.Migrate(t.Context()))
	handle := inbox.Handle(table, func(ctx context.Context, tx *sql.Tx, e outbox.Event) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO credits VALUES (?)`, e.ID.String())
		return err
	})
	batch := events(50)
	b.publish(batch)
	eventually(t, "the stream takes repeats", func() bool {
		b.publish(batch)
		stream, err := b.js.Stream(t.Context(), "EVENTS")
		require.NoError(t, err)
		return stream.CachedInfo().State.Msgs >= 100
	})
	consumer := b.durable(jetstream.ConsumerConfig{})
	b.running(consumer, handle)
	b.running(consumer, handle)
	eventually(t, "all is acknowledged", b.idle(consumer))
	var n, ids int
	require.NoError(t, db.QueryRow(`SELECT count(*), count(DISTINCT event) FROM credits`).Scan(&n, &ids))
	require.Equal(t, 50, n)
	require.Equal(t, 50, ids)
}

func TestAFailureIsDeliveredAgain(t *testing.T) {
	t.Parallel()
	b := startBroker(t, jetstream.StreamConfig{})
	b.publish(events(5))
	s := sink{answer: func(call int, _ outbox.Event) error {
		if call < 3 {
			return fmt.Errorf("attempt %d: %w", call, inbox.ErrInProgress)
		}
		return nil
	}}
	consumer := b.durable(jetstream.ConsumerConfig{})
	b.running(consumer, s.handle)
	eventually(t, "all is acknowledged", b.idle(consumer))
	require.EqualValues(t, 15, s.total.Load())
	require.Zero(t, b.dead())
}

// A process fetched an event and died; another one gets it after AckWait.
func TestWhatADeadProcessLeftIsDeliveredAgain(t *testing.T) {
	t.Parallel()
	b := startBroker(t, jetstream.StreamConfig{})
	b.publish(events(3))
	consumer := b.durable(jetstream.ConsumerConfig{AckWait: 3 * time.Second})
	left, err := consumer.Fetch(3)
	require.NoError(t, err)
	for range left.Messages() {
	}
	var s sink
	b.running(consumer, s.handle)
	eventually(t, "all is acknowledged", b.idle(consumer))
	require.EqualValues(t, 3, s.total.Load())
}

// A handler that takes longer than AckWait keeps its event.
func TestAnEventThatIsBeingHandledIsNotDeliveredAgain(t *testing.T) {
	t.Parallel()
	b := startBroker(t, jetstream.StreamConfig{})
	b.publish(events(1))
	s := sink{answer: func(int, outbox.Event) error { time.Sleep(8 * time.Second); return nil }} // the length is the point
	consumer := b.durable(jetstream.ConsumerConfig{AckWait: 3 * time.Second})
	b.running(consumer, s.handle)
	b.running(consumer, s.handle)
	eventually(t, "it is acknowledged", b.idle(consumer))
	require.EqualValues(t, 1, s.begun.Load())
}

// A poisoned event is delivered so often and no more, the others flow, and it can be delivered again later, within the
// stream's duplicate window too.
func TestAPoisonedEventBecomesADeadLetterAndIsRedelivered(t *testing.T) {
	t.Parallel()
	b := startBroker(t, jetstream.StreamConfig{})
	batch := events(10)
	b.publish(batch)
	poisoned := batch[3]
	var fixed atomic.Bool
	s := sink{answer: func(_ int, e outbox.Event) error {
		if e.ID == poisoned.ID && !fixed.Load() {
			return errors.New("no such\naccount")
		}
		return nil
	}}
	consumer := b.durable(jetstream.ConsumerConfig{})
	c, _ := b.running(consumer, s.handle, func(cfg *ConsumerConfig) { cfg.MaxDeliveries = 3 })
	eventually(t, "it is a dead letter", func() bool { return b.dead() == 1 && b.idle(consumer)() })
	require.EqualValues(t, 9+3, s.total.Load())
	stream, err := b.js.Stream(t.Context(), "DEAD")
	require.NoError(t, err)
	letter, err := stream.GetMsg(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, "it was delivered too often: 3 times", letter.Header.Get(HeaderDeadError))
	e, err := Decode(letter.Header, letter.Data)
	require.NoError(t, err)
	require.Equal(t, poisoned, e)

	fixed.Store(true)
	n, err := c.Redeliver(t.Context(), 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	eventually(t, "it is handled", func() bool { return s.total.Load() == 9+3+1 && b.idle(consumer)() })
	require.Zero(t, b.dead())
	n, err = c.Redeliver(t.Context(), 10)
	require.NoError(t, err)
	require.Zero(t, n)
}

// What can never be handled is a dead letter at once.
func TestWhatIsNoEventOrNeverTakenIsBuriedAtOnce(t *testing.T) {
	t.Parallel()
	b := startBroker(t, jetstream.StreamConfig{})
	_, err := b.js.PublishMsg(t.Context(), &nats.Msg{Subject: "events.x", Data: []byte("hello")})
	require.NoError(t, err)
	b.publish(events(2))
	answers := []error{fmt.Errorf("two\r\nlines: %w", inbox.ErrPayloadMismatch), outbox.Permanent(errors.New("no"))}
	s := sink{}
	s.answer = func(int, outbox.Event) error { return answers[s.total.Load()] }
	consumer := b.durable(jetstream.ConsumerConfig{})
	b.running(consumer, s.handle, func(cfg *ConsumerConfig) { cfg.Concurrency = 1 })
	eventually(t, "all are dead letters", func() bool { return b.dead() == 3 && b.idle(consumer)() })
	require.EqualValues(t, 2, s.total.Load())
}

// The server is restarted while events come: nothing is lost.
func TestTheConsumerSurvivesARestart(t *testing.T) {
	t.Parallel()
	b := startBroker(t, jetstream.StreamConfig{})
	b.publish(events(3))
	var s sink
	consumer := b.durable(jetstream.ConsumerConfig{})
	b.running(consumer, s.handle)
	eventually(t, "the first are handled", b.idle(consumer))
	stop(b.server)
	b.start()
	eventually(t, "the next are published", func() bool {
		p, err := New(b.conn, nil)
		require.NoError(t, err)
		return errors.Join(p.Publish(t.Context(), events(2))...) == nil
	})
	eventually(t, "they are handled", func() bool { return s.total.Load() >= 5 && b.idle(consumer)() })
}

func TestAStoppedConsumerLosesNothing(t *testing.T) {
	t.Parallel()
	b := startBroker(t, jetstream.StreamConfig{})
	b.publish(events(1))
	inside := make(chan struct{})
	consumer := b.durable(jetstream.ConsumerConfig{})
	_, stop := b.running(consumer, func(ctx context.Context, _ outbox.Event) (inbox.Result, error) {
		close(inside)
		<-ctx.Done()
		return inbox.Result{}, ctx.Err()
	})
	<-inside
	stop()
	var s sink
	b.running(consumer, s.handle)
	eventually(t, "it is acknowledged", b.idle(consumer))
	require.EqualValues(t, 1, s.total.Load())
}

func TestConsumerConfigSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	b := startBroker(t, jetstream.StreamConfig{})
	var s sink
	consumer := b.durable(jetstream.ConsumerConfig{})
	limited, err := b.js.CreateConsumer(t.Context(), "EVENTS", jetstream.ConsumerConfig{Durable: "limited", MaxDeliver: 1000, AckPolicy: jetstream.AckExplicitPolicy})
	require.NoError(t, err)
	unacknowledged, err := b.js.CreateConsumer(t.Context(), "EVENTS", jetstream.ConsumerConfig{Durable: "unacknowledged", AckPolicy: jetstream.AckNonePolicy})
	require.NoError(t, err)
	for want, tt := range map[string]struct {
		consumer jetstream.Consumer
		cfg      *ConsumerConfig
	}{
		"ConsumerConfig is nil":                                  {consumer, nil},
		`DeadLetters is "", which is no subject`:                 {consumer, &ConsumerConfig{}},
		"Concurrency is -1":                                      {consumer, &ConsumerConfig{DeadLetters: "dead.x", Concurrency: -1}},
		"Concurrency is 9223372036854775807":                     {consumer, &ConsumerConfig{DeadLetters: "dead.x", Concurrency: math.MaxInt}},
		"RetryAfter is -1ns":                                     {consumer, &ConsumerConfig{DeadLetters: "dead.x", RetryAfter: -1}},
		"HandlerTimeout is -1ns":                                 {consumer, &ConsumerConfig{DeadLetters: "dead.x", HandlerTimeout: -1}},
		"MaxDeliveries is -1":                                    {consumer, &ConsumerConfig{DeadLetters: "dead.x", MaxDeliveries: -1}},
		"consumer limited has MaxDeliver 1000, after which":      {limited, &ConsumerConfig{DeadLetters: "dead.x"}},
		"consumer unacknowledged has AckPolicy":                  {unacknowledged, &ConsumerConfig{DeadLetters: "dead.x"}},
		"the JetStream, its consumer, or the inbox's Handler is": {nil, &ConsumerConfig{DeadLetters: "dead.x"}},
	} {
		_, err := NewConsumer(b.js, tt.consumer, s.handle, tt.cfg)
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, want)
	}
	for want, subject := range map[string]string{
		`no stream takes ConsumerConfig.DeadLetters "nowhere"`: "nowhere",
		"is a subject of the consumer's own stream EVENTS":     "events.dead",
	} {
		c, err := NewConsumer(b.js, consumer, s.handle, &ConsumerConfig{DeadLetters: subject})
		require.NoError(t, err)
		err = c.Run(t.Context())
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, want)
	}
}

// F49: a handler whose database has gone silent keeps its event from all others. It is given up, and the event delivered again.
func TestAHandlerThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	b := startBroker(t, jetstream.StreamConfig{})
	b.publish(events(3))
	s := new(sink)
	consumer := b.durable(jetstream.ConsumerConfig{})
	var calls atomic.Int64
	b.running(consumer, func(ctx context.Context, e outbox.Event) (inbox.Result, error) {
		if calls.Add(1) == 1 {
			<-ctx.Done()
			return inbox.Result{}, ctx.Err()
		}
		return s.handle(ctx, e)
	}, func(cfg *ConsumerConfig) { cfg.Concurrency, cfg.HandlerTimeout = 1, 2*time.Second })
	require.Eventually(t, b.idle(consumer), 3*time.Minute, 20*time.Millisecond, "all is acknowledged")
	require.Greater(t, calls.Load(), int64(3), "the fault fired: one call was in vain")
	require.Len(t, s.calls, 3)
	require.Zero(t, b.dead())
}

// F49: the server's answers stop, on a connection that stays. Its pings tell, the consumer says so, and goes on over another one.
func TestASilentServerHoldsUpNoConsumer(t *testing.T) {
	t.Parallel()
	b := startBroker(t, jetstream.StreamConfig{})
	b.conn.Opts.PingInterval = 200 * time.Millisecond // from the next connection on
	require.NoError(t, b.conn.ForceReconnect())
	b.publish(events(3))
	s := new(sink)
	var log lines
	consumer := b.durable(jetstream.ConsumerConfig{})
	b.running(consumer, s.handle, func(cfg *ConsumerConfig) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	eventually(t, "all is acknowledged", func() bool { return s.total.Load() >= 3 && b.idle(consumer)() })
	release := sync.OnceFunc(b.wire.hold())
	defer release()
	require.Eventually(t, func() bool { return log.String() != "" }, 2*time.Minute, 20*time.Millisecond, "it says so")
	release()
	require.Contains(t, log.String(), "the server does not answer")
	require.Eventually(t, b.conn.IsConnected, 3*time.Minute, 20*time.Millisecond, "it is connected again")
	b.publish(events(3))
	require.Eventually(t, func() bool { return s.total.Load() >= 6 && b.idle(consumer)() }, 3*time.Minute, 20*time.Millisecond, "all is acknowledged")
}

// lines are a log's lines.
type lines struct {
	mu   sync.Mutex
	text []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	return len(p), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}
