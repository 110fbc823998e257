package redisstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/outbox/inbox"
)

// ConsumerConfig says what a Consumer reads and how. Group is required.
type ConsumerConfig struct {
	// Stream is the key of the stream. Default DefaultStream.
	Stream string
	// Group is the consumer group: each event goes to one of its members. It is made if it isn't there, and begins with the
	// oldest entry of the stream.
	Group string
	// Name is this member's name, which no other one may have at the same time. Default: host name, process id and something
	// random.
	Name string
	// Concurrency is how many events are handled at a time. With more than one, events of an aggregate may overtake one
	// another. At most 10,000; default 16.
	Concurrency int
	// HandlerTimeout bounds each call of the inbox's Handler, whose context then ends: see inbox.Handler.Within. No other member gets
	// the entry before. Default 5 minutes.
	HandlerTimeout time.Duration
	// RetryAfter is how long an entry that wasn't acknowledged rests before it is delivered again, to whichever member: its
	// handling failed, or its member died. One that is still being handled isn't. Default 30 s.
	RetryAfter time.Duration
	// MaxDeliveries is how often an entry is delivered, for whatever reason, before it is a dead letter. With RetryAfter it
	// says how long an outage may last. Default 50.
	MaxDeliveries int
	// DeadLetters is the key of the stream for entries that are delivered no more; it isn't trimmed. Default: Stream and ":dead".
	DeadLetters string
	// Logger gets a line at warn level for what fails, and at error level for each dead letter. Default slog.Default().
	Logger *slog.Logger
}

// maxConcurrency bounds how many events are read at a time.
const maxConcurrency = 10_000

func (c *ConsumerConfig) withDefaults() (ConsumerConfig, error) {
	if c == nil {
		return ConsumerConfig{}, fmt.Errorf("%w: ConsumerConfig is nil; Group is required", ErrConfig)
	}
	cfg := *c
	if cfg.Stream == "" {
		cfg.Stream = DefaultStream
	}
	if cfg.Name == "" {
		host, _ := os.Hostname() // only for people
		cfg.Name = fmt.Sprintf("%s/%d/%s", host, os.Getpid(), uuid.NewString()[:8])
	}
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
	if cfg.DeadLetters == "" {
		cfg.DeadLetters = cfg.Stream + ":dead"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	switch {
	case cfg.Group == "":
		return cfg, fmt.Errorf("%w: ConsumerConfig.Group is empty", ErrConfig)
	case cfg.Concurrency < 0 || cfg.Concurrency > maxConcurrency:
		return cfg, fmt.Errorf("%w: ConsumerConfig.Concurrency is %d, it goes to %d", ErrConfig, cfg.Concurrency, maxConcurrency)
	case cfg.RetryAfter < 10*time.Millisecond:
		return cfg, fmt.Errorf("%w: ConsumerConfig.RetryAfter is %v, the shortest is 10ms", ErrConfig, cfg.RetryAfter)
	case cfg.HandlerTimeout < 0:
		return cfg, fmt.Errorf("%w: ConsumerConfig.HandlerTimeout is %v", ErrConfig, cfg.HandlerTimeout)
	case cfg.MaxDeliveries < 0:
		return cfg, fmt.Errorf("%w: ConsumerConfig.MaxDeliveries is %d", ErrConfig, cfg.MaxDeliveries)
	case cfg.DeadLetters == cfg.Stream:
		return cfg, fmt.Errorf("%w: ConsumerConfig.DeadLetters is Stream itself", ErrConfig)
	}
	return cfg, nil
}

// Consumer is a member of a consumer group, which hands events to an inbox. An entry is acknowledged when the inbox is done
// with it, and delivered again after an error; one that can never be handled (it is no event, or the inbox says so), or was
// delivered too often (it kills its members' processes, say), becomes a dead letter: it is kept in another stream, for
// Redeliver.
type Consumer struct {
	client redis.UniversalClient
	handle inbox.Handler
	cfg    ConsumerConfig
}

// NewConsumer makes a Consumer on a client, which stays the caller's to close. It sends nothing.
func NewConsumer(client redis.UniversalClient, handle inbox.Handler, cfg *ConsumerConfig) (*Consumer, error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if handle == nil {
		return nil, fmt.Errorf("%w: the inbox's Handler is nil", ErrConfig)
	}
	if err := checkClient(client); err != nil {
		return nil, err
	}
	return &Consumer{client, handle.Within(c.HandlerTimeout), c}, nil
}

// Run handles events until ctx ends; then handlers' contexts end, and it returns nil after the last of them has returned.
// What they weren't done with is delivered again. Nothing that happens to Redis ends it: it says so in the log, and tries
// again. It makes the group anew, from the oldest entry on, when Redis has lost it. Run it once at a time.
func (c *Consumer) Run(ctx context.Context) error {
	r := &reader{Consumer: c, slots: make(chan struct{}, c.cfg.Concurrency), inFlight: map[string]struct{}{}}
	stop := make(chan struct{})
	r.group.Go(func() { r.keep(stop) })
	defer func() {
		r.handlers.Wait()
		close(stop)
		r.group.Wait()
	}()
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 10*time.Millisecond, 5*time.Second
	for ctx.Err() == nil {
		err := r.round(ctx)
		if err == nil {
			pause.Reset()
			continue
		}
		if ctx.Err() != nil {
			break
		}
		if redis.HasErrorPrefix(err, "NOGROUP") {
			err = c.createGroup(ctx)
			if err == nil {
				continue
			}
		}
		c.cfg.Logger.WarnContext(ctx, "reading a stream failed, trying again", "stream", c.cfg.Stream, "group", c.cfg.Group, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause.NextBackOff()):
		}
	}
	return nil
}

func (c *Consumer) createGroup(ctx context.Context) error {
	err := c.client.XGroupCreateMkStream(ctx, c.cfg.Stream, c.cfg.Group, "0").Err()
	if redis.HasErrorPrefix(err, "BUSYGROUP") {
		return nil // another member was faster
	}
	return err
}

// deliver hands one entry to the inbox, and acknowledges it when that is done with it.
func (c *Consumer) deliver(ctx context.Context, entry redis.XMessage) {
	event, err := Decode(entry.Values)
	if err == nil {
		_, err = c.handle(ctx, event)
	}
	// What the handler did is done, also when the consumer is being stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
	defer cancel()
	switch {
	case err == nil:
		err = c.client.XAck(ctx, c.cfg.Stream, c.cfg.Group, entry.ID).Err()
	case errors.Is(err, ErrNotEvent), inbox.Permanent(err):
		err = c.bury(ctx, entry, err)
	}
	if err != nil {
		c.failed(ctx, entry, err)
	}
}

// failed says why an entry is delivered again.
func (c *Consumer) failed(ctx context.Context, entry redis.XMessage, err error) {
	c.cfg.Logger.WarnContext(ctx, "delivery failed, and will be repeated", "stream", c.cfg.Stream, "group", c.cfg.Group, "entry", entry.ID, "error", err)
}

const ackTimeout = 5 * time.Second

// The fields that a dead letter has beside the entry's own.
const (
	FieldDeadEntry = "dead_entry" // the entry's id in its stream
	FieldDeadGroup = "dead_group" // the group that gave it up
	FieldDeadError = "dead_error" // why, at most 1,000 bytes of it
)

// maxError is how much of an error's text is kept, in bytes.
const maxError = 1000

func errorText(err error) string {
	text := err.Error()
	return strings.ToValidUTF8(text[:min(len(text), maxError)], "")
}

// bury keeps an entry as a dead letter, and then acknowledges it. In a transaction Redis would acknowledge it also where it refuses
// the letter.
func (c *Consumer) bury(ctx context.Context, entry redis.XMessage, cause error) error {
	values := []any{FieldDeadEntry, entry.ID, FieldDeadGroup, c.cfg.Group, FieldDeadError, errorText(cause)}
	for name, value := range entry.Values {
		values = append(values, name, value)
	}
	if err := c.client.XAdd(ctx, &redis.XAddArgs{Stream: c.cfg.DeadLetters, Values: values}).Err(); err != nil {
		return fmt.Errorf("%w (and it could not be kept in %s: %w)", cause, c.cfg.DeadLetters, err)
	}
	c.cfg.Logger.ErrorContext(ctx, "entry became a dead letter", "stream", c.cfg.Stream, "group", c.cfg.Group, "entry", entry.ID, "dead_letters", c.cfg.DeadLetters, "error", cause)
	return c.client.XAck(ctx, c.cfg.Stream, c.cfg.Group, entry.ID).Err()
}

// Redeliver puts the group's oldest dead letters, at most count, back into the stream as new entries, and returns how many.
// Other groups of the stream get them once more, too, which their inboxes drop. When a call is broken off, one of them may be
// both in the stream and a dead letter.
func (c *Consumer) Redeliver(ctx context.Context, count int) (redelivered int, err error) {
	for start := "-"; redelivered < count; {
		entries, err := c.client.XRangeN(ctx, c.cfg.DeadLetters, start, "+", 100).Result()
		if err != nil || len(entries) == 0 {
			return redelivered, err
		}
		start = "(" + entries[len(entries)-1].ID
		for _, entry := range entries {
			if entry.Values[FieldDeadGroup] != c.cfg.Group || redelivered == count {
				continue
			}
			var values []any
			for name, value := range entry.Values {
				if !strings.HasPrefix(name, "dead_") {
					values = append(values, name, value)
				}
			}
			err := c.client.XAdd(ctx, &redis.XAddArgs{Stream: c.cfg.Stream, Values: values}).Err()
			if err == nil {
				err = c.client.XDel(ctx, c.cfg.DeadLetters, entry.ID).Err()
			}
			if err != nil {
				return redelivered, fmt.Errorf("redisstream: redeliver %s: %w", entry.ID, err)
			}
			redelivered++
		}
	}
	return redelivered, nil
}
