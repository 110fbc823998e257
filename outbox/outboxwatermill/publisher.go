package outboxwatermill

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/endstate-go/endstate/outbox"
)

// Config says where events go. Topic or TopicFor is required.
type Config struct {
	// Topic is the topic of all events.
	Topic string
	// TopicFor names an event's topic instead.
	TopicFor func(outbox.Event) string
	// Concurrency bounds how many calls of Watermill's publisher are under way at a time, those included that were left behind.
	// Default 16.
	Concurrency int
	// Permanent reports whether an error of the publisher's is one that no repetition fixes, such as a message that is too large.
	// Default: none is, so that an event becomes a dead letter only after relay.Config.MaxAttempts.
	Permanent func(error) bool
	// Destination says where the broker is, scheme and host: "amqp://broker:5672". Relays of one subscription must say the same.
	// Default: nobody says.
	Destination string
}

// ErrConfig is returned for a configuration that doesn't make sense; the message names the field.
var ErrConfig = errors.New("outboxwatermill: invalid configuration")

// Publisher is an outbox.Publisher by one of Watermill's. It is safe for concurrent use.
type Publisher struct {
	to    message.Publisher
	cfg   Config
	slots chan struct{}
	calls sync.WaitGroup
}

var (
	_ outbox.Publisher = (*Publisher)(nil)
	_ outbox.Addressed = (*Publisher)(nil)
)

// New makes a Publisher of one of Watermill's, which stays the caller's to close. See the package's documentation for which of
// them lose events.
func New(publisher message.Publisher, cfg *Config) (*Publisher, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	c := *cfg
	if c.Concurrency == 0 {
		c.Concurrency = 16
	}
	switch {
	case publisher == nil, reflect.ValueOf(publisher).Kind() == reflect.Pointer && reflect.ValueOf(publisher).IsNil():
		return nil, fmt.Errorf("%w: the publisher is nil", ErrConfig)
	case c.Topic == "" && c.TopicFor == nil:
		return nil, fmt.Errorf("%w: Config.Topic is empty, and there is no TopicFor", ErrConfig)
	case c.Topic != "" && c.TopicFor != nil:
		return nil, fmt.Errorf("%w: Config.Topic and TopicFor are both set", ErrConfig)
	case c.Concurrency < 0:
		return nil, fmt.Errorf("%w: Config.Concurrency is %d", ErrConfig, c.Concurrency)
	}
	return &Publisher{to: publisher, cfg: c, slots: make(chan struct{}, c.Concurrency)}, nil
}

// Destination implements outbox.Addressed.
func (p *Publisher) Destination() string { return p.cfg.Destination }

// Publish implements outbox.Publisher. The context goes with the messages, for publishers that heed it.
func (p *Publisher) Publish(ctx context.Context, batch []outbox.Event) []error {
	type answer struct {
		event int
		err   error
	}
	answers := make(chan answer, len(batch)) // so that a call that is left behind can end
	errs := make([]error, len(batch))
	pending := map[int]bool{}
	for i, e := range batch {
		msg, topic, err := p.message(e)
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err == nil {
			select {
			case p.slots <- struct{}{}:
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		}
		if err != nil {
			errs[i] = err
			continue
		}
		msg.SetContext(ctx)
		pending[i] = true
		p.calls.Go(func() {
			a := answer{i, errors.New("outboxwatermill: the publisher ended its goroutine")}
			defer func() {
				answers <- a
				<-p.slots
			}()
			a.err = p.one(topic, msg)
		})
	}
	for len(pending) > 0 {
		select {
		case a := <-answers:
			errs[a.event] = a.err
			delete(pending, a.event)
		case <-ctx.Done():
			for i := range pending {
				errs[i] = fmt.Errorf("outboxwatermill: no answer in time, the event may have been published: %w", context.Cause(ctx))
			}
			clear(pending)
		}
	}
	for _, err := range errs {
		if err != nil {
			return errs
		}
	}
	return nil
}

// message is what goes out, and where.
func (p *Publisher) message(e outbox.Event) (msg *message.Message, topic string, err error) {
	if topic = p.cfg.Topic; p.cfg.TopicFor != nil {
		topic = p.cfg.TopicFor(e)
	}
	if topic == "" {
		return nil, "", outbox.Permanent(fmt.Errorf("outboxwatermill: event %s: Config.TopicFor names no topic for type %q", e.ID, e.Type))
	}
	msg, err = Encode(e)
	return msg, topic, err
}

// one publishes one message. A panic is its failure: on this goroutine it would end the process.
func (p *Publisher) one(topic string, msg *message.Message) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("outboxwatermill: the publisher panicked with a %T", r) // its text may hold anything
		}
	}()
	if err = p.to.Publish(topic, msg); err != nil && p.cfg.Permanent != nil && p.cfg.Permanent(err) {
		err = outbox.Permanent(err)
	}
	return err
}

// Wait waits for the calls that Publish left behind when its context ended. They end at the latest when the broker answers, or
// Watermill's publisher is closed.
func (p *Publisher) Wait() { p.calls.Wait() }
