package natsjs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/endstate-go/endstate/outbox/inbox"
)

// ConsumerConfig says how a Consumer handles messages. DeadLetters is required.
type ConsumerConfig struct {
	// DeadLetters is the subject for messages that are delivered no more. It must be another stream's than the consumer's.
	DeadLetters string
	// Concurrency is how many events are handled at a time. With more than one, events of an aggregate may overtake one
	// another. At most 10,000; default 16.
	Concurrency int
	// HandlerTimeout bounds each call of the inbox's Handler, whose context then ends: see inbox.Handler.Within. No other process
	// gets the message before. Default 5 minutes.
	HandlerTimeout time.Duration
	// RetryAfter is how long a message whose handling failed rests before it is delivered again. When its process died, it
	// is the consumer's AckWait. Default 30 s.
	RetryAfter time.Duration
	// MaxDeliveries is how often a message is delivered, for whatever reason, before it is a dead letter. With RetryAfter it
	// says how long an outage may last. The consumer's own MaxDeliver must be unlimited, as it is unless set: what that stops is
	// never seen again, also where it couldn't be kept as a dead letter yet. Default 50.
	MaxDeliveries int
	// Logger gets a line at warn level for what fails, and at error level for each dead letter. Default slog.Default().
	Logger *slog.Logger
}

// maxConcurrency bounds how many events are read at a time.
const maxConcurrency = 10_000

func (c *ConsumerConfig) withDefaults() (ConsumerConfig, error) {
	if c == nil {
		return ConsumerConfig{}, fmt.Errorf("%w: ConsumerConfig is nil; DeadLetters is required", ErrConfig)
	}
	cfg := *c
	if cfg.Concurrency == 0 {
		cfg.Concurrency = 16
	}
	if cfg.HandlerTimeout == 0 {
		cfg.HandlerTimeout = 5 * time.Minute
	}
	if cfg.RetryAfter == 0 {
		cfg.RetryAfter = 30 * time.Second
	}
	if cfg.MaxDeliveries == 0 {
		cfg.MaxDeliveries = 50
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	switch {
	case !validSubject(cfg.DeadLetters):
		return cfg, fmt.Errorf("%w: ConsumerConfig.DeadLetters is %q, which is no subject", ErrConfig, cfg.DeadLetters)
	case cfg.Concurrency < 0 || cfg.Concurrency > maxConcurrency:
		return cfg, fmt.Errorf("%w: ConsumerConfig.Concurrency is %d, it goes to %d", ErrConfig, cfg.Concurrency, maxConcurrency)
	case cfg.RetryAfter < 0:
		return cfg, fmt.Errorf("%w: ConsumerConfig.RetryAfter is %v", ErrConfig, cfg.RetryAfter)
	case cfg.HandlerTimeout < 0:
		return cfg, fmt.Errorf("%w: ConsumerConfig.HandlerTimeout is %v", ErrConfig, cfg.HandlerTimeout)
	case cfg.MaxDeliveries < 0:
		return cfg, fmt.Errorf("%w: ConsumerConfig.MaxDeliveries is %d", ErrConfig, cfg.MaxDeliveries)
	}
	return cfg, nil
}

// Consumer hands the messages of a JetStream consumer to an inbox. A message is acknowledged when the inbox is done with it,
// and delivered again after an error; one that can never be handled (it is no event, or the inbox says so), or was delivered
// too often (it kills its processes, say), becomes a dead letter: it is kept under another subject, for Redeliver.
type Consumer struct {
	js       jetstream.JetStream
	consumer jetstream.Consumer
	info     *jetstream.ConsumerInfo
	handle   inbox.Handler
	cfg      ConsumerConfig
	dead     deadLetters // found by Run
}

// NewConsumer makes a Consumer of a durable pull consumer with explicit acknowledgement, which the service creates. Its
// connection must reconnect forever: nats.MaxReconnects(-1). NewConsumer sends nothing.
func NewConsumer(js jetstream.JetStream, consumer jetstream.Consumer, handle inbox.Handler, cfg *ConsumerConfig) (*Consumer, error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if js == nil || consumer == nil || handle == nil {
		return nil, fmt.Errorf("%w: the JetStream, its consumer, or the inbox's Handler is nil", ErrConfig)
	}
	if err := checkConn(js.Conn()); err != nil {
		return nil, err
	}
	if longest := maxSubject(js.Conn(), defaultControlLine); len(c.DeadLetters) > longest {
		return nil, fmt.Errorf("%w: ConsumerConfig.DeadLetters is %d bytes long, the limit is %d", ErrConfig, len(c.DeadLetters), longest)
	}
	info := consumer.CachedInfo()
	if info.Config.AckPolicy != jetstream.AckExplicitPolicy {
		return nil, fmt.Errorf("%w: consumer %s has AckPolicy %v, not explicit", ErrConfig, info.Name, info.Config.AckPolicy)
	}
	if n := info.Config.MaxDeliver; n > 0 {
		return nil, fmt.Errorf("%w: consumer %s has MaxDeliver %d, after which JetStream drops an event, also one that couldn't be kept as a dead letter yet: leave it out, ConsumerConfig.MaxDeliveries counts", ErrConfig, info.Name, n)
	}
	return &Consumer{js: js, consumer: consumer, info: info, handle: handle.Within(c.HandlerTimeout), cfg: c}, nil
}

// fetchWait is how long a fetch waits for messages, and so how long the end of Run may take.
const fetchWait = 500 * time.Millisecond

// Run handles events until ctx ends; then handlers' contexts end, and it returns nil after the last of them has returned.
// What they weren't done with is delivered again. What happens to the connection doesn't end it: it says so in the log, and
// tries again. The error is ErrConfig, if no stream takes the dead letters, the consumer's own does, or
// one that takes only shorter messages. Run it once at a time.
func (c *Consumer) Run(ctx context.Context) error {
	if err := c.checkDeadLetters(ctx); err != nil {
		return err
	}
	slots := make(chan struct{}, c.cfg.Concurrency)
	var handlers sync.WaitGroup
	defer handlers.Wait()
	for ctx.Err() == nil {
		free := take(ctx, slots)
		if free == 0 {
			break
		}
		heard := c.js.Conn().Stats().InMsgs
		batch, err := c.consumer.Fetch(free, jetstream.FetchMaxWait(fetchWait))
		if err == nil {
			for m := range batch.Messages() {
				if ctx.Err() != nil {
					_ = m.Nak() // else AckWait gives it to another process
					continue
				}
				free--
				handlers.Go(func() {
					defer func() { <-slots }()
					c.deliver(ctx, m)
				})
			}
			err = batch.Error()
		}
		if (err == nil || errors.Is(err, nats.ErrTimeout)) && c.js.Conn().Stats().InMsgs == heard {
			err = errSilent
		}
		for range free {
			<-slots
		}
		if err != nil && !errors.Is(err, nats.ErrTimeout) && ctx.Err() == nil {
			c.cfg.Logger.WarnContext(ctx, "fetching messages failed, trying again", "stream", c.info.Stream, "consumer", c.info.Name, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(fetchWait):
			}
		}
	}
	return nil
}

// errSilent is of a fetch to which the server said nothing: it answers one that finds no message, too. When the connection's pings
// have told the client, it connects anew.
var errSilent = errors.New("the server does not answer")

// checkDeadLetters finds the stream of the dead letters. A server that doesn't answer is asked again.
func (c *Consumer) checkDeadLetters(ctx context.Context) (err error) {
	for ctx.Err() == nil {
		if c.dead, err = c.findDeadLetters(ctx); err == nil || errors.Is(err, ErrConfig) {
			return err
		}
		c.cfg.Logger.WarnContext(ctx, "asking for the stream of the dead letters failed, trying again", "subject", c.cfg.DeadLetters, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(fetchWait):
		}
	}
	return nil
}

// take waits for a slot, and takes all that are free; none if ctx has ended.
func take(ctx context.Context, slots chan struct{}) (free int) {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return 0
	}
	for free = 1; free < cap(slots); free++ {
		select {
		case slots <- struct{}{}:
		default:
			return free
		}
	}
	return free
}

// deliver hands one message to the inbox, and acknowledges it when that is done with it.
func (c *Consumer) deliver(ctx context.Context, m jetstream.Msg) {
	cause := c.handleOnce(ctx, m)
	// What the handler did is done, also when the consumer is being stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	var err error
	switch {
	case cause == nil:
		err = m.Ack()
	case errors.Is(cause, ErrNotEvent), errors.Is(cause, errTooOften), inbox.Permanent(cause):
		err = c.bury(ctx, m, cause)
	default:
		c.cfg.Logger.WarnContext(ctx, "delivery failed, and will be repeated", "stream", c.info.Stream, "consumer", c.info.Name, "subject", m.Subject(), "error", cause)
		err = m.NakWithDelay(c.cfg.RetryAfter)
	}
	if err != nil {
		c.cfg.Logger.WarnContext(ctx, "answering a delivery failed: it will be repeated", "stream", c.info.Stream, "consumer", c.info.Name, "subject", m.Subject(), "error", err)
	}
}

const answerTimeout = 5 * time.Second

var errTooOften = errors.New("it was delivered too often")

// handleOnce lets the inbox handle a message, and tells the server meanwhile that it isn't forgotten.
func (c *Consumer) handleOnce(ctx context.Context, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotEvent, err)
	}
	if meta.NumDelivered > uint64(c.cfg.MaxDeliveries) {
		return fmt.Errorf("%w: %d times", errTooOften, meta.NumDelivered-1)
	}
	event, err := Decode(m.Headers(), m.Data())
	if err != nil {
		return err
	}
	done := make(chan struct{})
	var keeper sync.WaitGroup
	keeper.Go(func() {
		ticker := time.NewTicker(max(c.info.Config.AckWait/3, time.Millisecond))
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				_ = m.InProgress() // unless it arrives, another process gets the message, and its inbox waits for ours
			}
		}
	})
	defer func() {
		close(done)
		keeper.Wait()
	}()
	_, err = c.handle(ctx, event)
	return err
}
