package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/endstate-go/endstate/outbox/inbox"
)

// ConsumerConfig says what a Consumer reads and how. Group is required.
type ConsumerConfig struct {
	// Group is the consumer group, whose members share the topics' partitions. It begins with each partition's oldest record.
	Group string
	// Topics are the topics' names. Default DefaultTopic alone.
	Topics []string
	// DeadLetters is the topic for records that are given up, which is the service's own to create and should take what Topics
	// take. Empty: such a record is held, and with it all that comes after it in its partition, until it can be handled.
	DeadLetters string
	// MaxAttempts is how often the handling of a record may fail before it is given up. Attempts are counted by the member that
	// has the partition, from 1 again after a rebalance. With RetryAfter it says how long an outage may last. Default 50.
	MaxAttempts int
	// RetryAfter is the longest pause before a record whose handling failed is tried again; it begins with a hundredth. Later
	// records of its partition wait. Default 30 s.
	RetryAfter time.Duration
	// HandlerTimeout bounds each call of the inbox's Handler, whose context then ends: see inbox.Handler.Within. Its partition
	// waits for it. Default 5 minutes.
	HandlerTimeout time.Duration
	// HandOverTimeout is how long a handler may go on when its partition goes to another member; then its context ends. Keep it
	// shorter than kgo.RebalanceTimeout (60 s unless set). Default 20 s.
	HandOverTimeout time.Duration
	// Logger gets a line at warn level for what fails, and at error level for each record that is given up, or held. Default
	// slog.Default().
	Logger *slog.Logger
}

func (c *ConsumerConfig) withDefaults() (ConsumerConfig, error) {
	if c == nil {
		return ConsumerConfig{}, fmt.Errorf("%w: ConsumerConfig is nil; Group is required", ErrConfig)
	}
	cfg := *c
	if len(cfg.Topics) == 0 {
		cfg.Topics = []string{DefaultTopic}
	}
	if cfg.MaxAttempts == 0 {
		cfg.MaxAttempts = 50
	}
	if cfg.HandlerTimeout == 0 {
		cfg.HandlerTimeout = 5 * time.Minute
	}
	if cfg.RetryAfter == 0 {
		cfg.RetryAfter = 30 * time.Second
	}
	if cfg.HandOverTimeout == 0 {
		cfg.HandOverTimeout = 20 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	fail := func(format string, args ...any) (ConsumerConfig, error) {
		return cfg, fmt.Errorf("%w: ConsumerConfig.%s", ErrConfig, fmt.Sprintf(format, args...))
	}
	for _, topic := range cfg.Topics {
		if !validTopic(topic) {
			return fail("Topics has %q, which is no topic's name", topic)
		}
	}
	switch {
	case cfg.Group == "":
		return fail("Group is empty")
	case cfg.DeadLetters != "" && !validTopic(cfg.DeadLetters):
		return fail("DeadLetters is %q, which is no topic's name", cfg.DeadLetters)
	case slices.Contains(cfg.Topics, cfg.DeadLetters):
		return fail("DeadLetters is one of Topics")
	case cfg.MaxAttempts < 0:
		return fail("MaxAttempts is %d", cfg.MaxAttempts)
	case cfg.RetryAfter < 10*time.Millisecond:
		return fail("RetryAfter is %v, the shortest is 10ms", cfg.RetryAfter)
	case cfg.HandlerTimeout < 0:
		return fail("HandlerTimeout is %v", cfg.HandlerTimeout)
	case cfg.HandOverTimeout < 0:
		return fail("HandOverTimeout is %v", cfg.HandOverTimeout)
	}
	return cfg, nil
}

// Consumer is a member of a consumer group, which hands events to an inbox: those of a partition one after the other, in their
// order, and partitions side by side. A record's offset is committed after the inbox is done with it. After an error it is tried
// again; one that can never be handled (it is no event, or the inbox says so), or failed too often, is given up: it goes to the
// topic of dead letters, or is held.
type Consumer struct {
	handle inbox.Handler
	cfg    ConsumerConfig
	opts   []kgo.Opt
}

// NewConsumer makes a Consumer whose client gets these options: where the brokers are, kgo.SASL and so on, kgo.InstanceID for a
// static member. It sends nothing.
func NewConsumer(handle inbox.Handler, cfg *ConsumerConfig, opts ...kgo.Opt) (*Consumer, error) {
	own, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if handle == nil {
		return nil, fmt.Errorf("%w: the inbox's Handler is nil", ErrConfig)
	}
	c := &Consumer{handle: handle.Within(own.HandlerTimeout), cfg: own, opts: opts}
	if err := kgo.ValidateOpts(newMember(c).options()...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return c, nil
}

// leaveTimeout bounds a commit, and the goodbye to the group after the last one.
const leaveTimeout = 5 * time.Second

// Run joins the group and handles events until ctx ends; then handlers' contexts end, and it returns nil after the last of them
// has returned, its offsets are committed, and the group was told: for which it waits while other members hand over in a rebalance.
// What it wasn't done with is delivered again, to whichever member. Nothing that happens to the brokers ends it: it says so in the
// log, and tries again. Several Runs are several members.
func (c *Consumer) Run(ctx context.Context) error {
	m := newMember(c)
	m.ctx = ctx
	client, err := kgo.NewClient(m.options()...)
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	m.client = client
	defer client.CloseAllowingRebalance()
	for ctx.Err() == nil {
		fetches := client.PollRecords(ctx, pollRecords)
		failed := false
		fetches.EachError(func(topic string, partition int32, err error) {
			if ctx.Err() == nil {
				failed = true
				m.report(topic, partition, err)
			}
		})
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			m.hand(partition{p.Topic, p.Partition}, p.Records)
		})
		client.AllowRebalance()
		if failed && fetches.NumRecords() == 0 {
			select {
			case <-ctx.Done():
			case <-time.After(250 * time.Millisecond):
			}
		}
	}
	m.finish()
	leaving, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	m.mu.Lock()
	m.giveUp = giveUp
	m.mu.Unlock()
	if err := client.LeaveGroupContext(leaving); err != nil { // it calls revoked, after a rebalance that is under way
		c.cfg.Logger.WarnContext(ctx, "kafka: leaving the group failed; it notices after the session's timeout", "group", c.cfg.Group, "error", err)
	}
	return nil
}

// pollRecords is how many records are taken from the client at once.
const pollRecords = 500

// report logs why nothing can be read.
func (m *member) report(topic string, partition int32, err error) {
	attrs := []any{"group", m.cfg.Group, "topic", topic, "partition", partition, "error", err}
	if _, lost := errors.AsType[*kgo.ErrDataLoss](err); lost {
		m.cfg.Logger.Error("kafka: a broker has lost records, and others may have taken their offsets", attrs...)
		return
	}
	m.cfg.Logger.Warn("kafka: reading failed, trying again", attrs...)
}

// committed logs a commit that failed.
func (m *member) committed(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, response *kmsg.OffsetCommitResponse, err error) {
	if err == nil {
		err = commitError(response)
	}
	if err != nil {
		m.cfg.Logger.Warn("kafka: committing offsets failed; what was handled may be delivered again", "group", m.cfg.Group, "error", err)
	}
}
