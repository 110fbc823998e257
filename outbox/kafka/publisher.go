package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/endstate-go/endstate/outbox"
)

// Publisher sends events to Kafka. It is safe for concurrent use; calls take turns, so relays that publish at the same time
// better have one each.
type Publisher struct {
	client *kgo.Client
	cfg    Config
	turn   chan struct{}
	broken atomic.Pointer[error] // of the last attempt to connect to a broker; nil if it succeeded
}

var (
	_ outbox.Ordered   = (*Publisher)(nil)
	_ outbox.Addressed = (*Publisher)(nil)
)

// New makes a Publisher with a client of its own, whose options say at least where the brokers are: kgo.SeedBrokers, and as
// needed kgo.SASL, kgo.DialTLSConfig, kgo.ProducerBatchCompression and others. What the Publisher's promises rest on can't be
// changed by them: all replicas in sync acknowledge (acks=all), and the producer is idempotent. New sends nothing. Close
// closes the client.
func New(cfg *Config, opts ...kgo.Opt) (*Publisher, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	p := &Publisher{cfg: cfg.withDefaults(), turn: make(chan struct{}, 1)}
	all := slices.Concat(
		[]kgo.Opt{kgo.ClientID("endstate"), kgo.MetadataMinAge(250 * time.Millisecond), kgo.UnknownTopicRetries(2), kgo.ProduceRequestTimeout(10 * time.Second)},
		opts,
		[]kgo.Opt{
			kgo.RequiredAcks(kgo.AllISRAcks()),
			kgo.ManualFlushing(), // nothing is sent before the whole batch is there
			kgo.MaxBufferedRecords(math.MaxInt), kgo.MaxBufferedBytes(0),
			kgo.RecordRetries(math.MaxInt), kgo.RecordDeliveryTimeout(0), // AckTimeout bounds them
			kgo.ProducerBatchMaxBytes(int32(p.cfg.MaxBatchBytes)),
			kgo.ProducerOnDataLossDetected(p.lostData),
			kgo.WithHooks(connections{p}),
		},
	)
	var err error
	if p.client, err = kgo.NewClient(all...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	for name, set := range map[string]bool{
		"kgo.DisableIdempotentWrite":             p.client.OptValue(kgo.DisableIdempotentWrite) == true,
		"kgo.AllowIdempotentProduceCancellation": p.client.OptValue(kgo.AllowIdempotentProduceCancellation) == true,
		"kgo.StopProducerOnDataLossDetected":     p.client.OptValue(kgo.StopProducerOnDataLossDetected) == true,
		"kgo.DefaultProduceTopicAlways":          p.client.OptValue(kgo.DefaultProduceTopicAlways) == true,
		"kgo.TransactionalID":                    p.client.OptValue(kgo.TransactionalID) != "",
	} {
		if set {
			p.client.Close()
			return nil, fmt.Errorf("%w: the client has %s, which a Publisher's promises don't allow", ErrConfig, name)
		}
	}
	return p, nil
}

// Close closes the client. What Publish has returned as taken is with the cluster.
func (p *Publisher) Close() { p.client.Close() }

// KeepsOrder implements outbox.Ordered: a batch may have several events of one aggregate.
func (p *Publisher) KeepsOrder() bool { return true }

// Destination implements outbox.Addressed: the brokers that the client begins with.
func (p *Publisher) Destination() string {
	seeds, _ := p.client.OptValue(kgo.SeedBrokers).([]string)
	seeds = slices.Sorted(slices.Values(seeds))
	destination := "kafka://" + strings.Join(seeds, ",")
	for len(destination) > outbox.MaxName && len(seeds) > 1 {
		seeds = seeds[:len(seeds)-1]
		destination = "kafka://" + strings.Join(seeds, ",")
	}
	return destination
}

// Ping asks whether a broker answers.
func (p *Publisher) Ping(ctx context.Context) error {
	if err := p.client.Ping(ctx); err != nil {
		return p.explain(fmt.Errorf("kafka: %w", err))
	}
	return nil
}

var errNotAcknowledged = errors.New("kafka: not acknowledged within Config.AckTimeout")

// Publish implements outbox.Publisher.
func (p *Publisher) Publish(ctx context.Context, batch []outbox.Event) []error {
	if len(batch) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.AckTimeout, errNotAcknowledged)
	defer cancel()
	b := newSending(p, batch)
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
		b.send(ctx)
	case <-ctx.Done():
		b.giveUp(ctx)
	}
	return b.result()
}

// produce sends records and returns the error of each when none of them is in the client any more.
func (p *Publisher) produce(ctx context.Context, records []*kgo.Record) []error {
	errs := make([]error, len(records))
	done := make(chan struct{})
	var answered atomic.Int64
	for i, r := range records {
		p.client.Produce(ctx, r, func(_ *kgo.Record, err error) {
			errs[i] = err
			if answered.Add(1) == int64(len(records)) {
				close(done)
			}
		})
	}
	if p.client.Flush(ctx) != nil {
		// Nothing of it is sent after this. A request that is on its way may still be written: its answer is awaited before the
		// client sends more to the partition, by a new epoch of the producer, and events are repeated with their ids.
		p.client.UnsafeAbortBufferedRecords()
	}
	<-done
	for i, err := range errs {
		if ctx.Err() != nil && (errors.Is(err, kgo.ErrAborting) || errors.Is(err, ctx.Err())) {
			errs[i] = p.explain(context.Cause(ctx))
		}
	}
	return errs
}

// explain adds why no broker could be reached to an error that came of it.
func (p *Publisher) explain(err error) error {
	if why := p.broken.Load(); why != nil {
		return fmt.Errorf("%w; the last connection to a broker failed: %w", err, *why)
	}
	return err
}

// lostData logs what the client finds out by the way: the broker doesn't know what it had acknowledged before.
func (p *Publisher) lostData(topic string, partition int32) {
	p.cfg.Logger.Error("kafka: a broker has lost events that it had acknowledged; replay them", "topic", topic, "partition", partition)
}

// connections notes how attempts to connect end: a client that can't connect, or sign in, tries again without a word.
type connections struct{ p *Publisher }

var _ kgo.HookBrokerConnect = connections{}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (c connections) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	switch before := c.p.broken.Load(); {
	case err == nil:
		c.p.broken.Store(nil)
	case before == nil || !errors.Is(err, io.EOF): // which tells nothing, and follows a refusal
		c.p.broken.Store(&err)
	}
}

// unacceptable reports whether the cluster will never take a record, if it was sent alone.
func unacceptable(err error) bool {
	for _, code := range []*kerr.Error{
		kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp, kerr.InvalidTopicException,
		kerr.PolicyViolation, kerr.UnsupportedForMessageFormat,
	} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}
