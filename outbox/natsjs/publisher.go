package natsjs

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/endstate-go/endstate/outbox"
)

// Config says where events go. The zero Config, or nil, is ready for use.
type Config struct {
	// Prefix begins each subject. Default "events".
	Prefix string
	// Subject names an event's subject instead.
	Subject func(outbox.Event) string
	// Stream, if set, is the stream that has to take the events: another one over the same subjects refuses them.
	Stream string
	// Source names where the events come from, as a URI or a path: CloudEvents' source. Default "endstate".
	Source string
	// AckTimeout is how long the stream may take to acknowledge an event. Default 5 seconds: longer than most elections of a
	// leader.
	AckTimeout time.Duration
	// MaxControlLine is the server's max_control_line, in bytes, which it doesn't tell its clients. A subject must be about 150
	// bytes shorter: a longer one is refused for good. Default 4096, as the server has it.
	MaxControlLine int
	// MaxInFlight bounds how many events, of all calls together, wait for their acknowledgement. Default 4096.
	MaxInFlight int
}

// ErrConfig is returned for a Config that doesn't make sense.
var ErrConfig = errors.New("natsjs: invalid configuration")

func (c Config) validate() error {
	if c.Prefix != "" && c.Subject != nil {
		return fmt.Errorf("%w: Config.Prefix and Config.Subject are both set", ErrConfig)
	}
	if c.Prefix != "" && !validSubject(c.Prefix) {
		return fmt.Errorf("%w: Config.Prefix is %q, which no subject can begin with", ErrConfig, c.Prefix)
	}
	if _, err := url.Parse(c.Source); err != nil {
		return fmt.Errorf("%w: Config.Source is not a URI reference", ErrConfig)
	}
	if c.AckTimeout < 0 {
		return fmt.Errorf("%w: Config.AckTimeout is %v", ErrConfig, c.AckTimeout)
	}
	if c.MaxControlLine < 0 {
		return fmt.Errorf("%w: Config.MaxControlLine is %d", ErrConfig, c.MaxControlLine)
	}
	if c.MaxInFlight < 0 {
		return fmt.Errorf("%w: Config.MaxInFlight is %d", ErrConfig, c.MaxInFlight)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = "events"
	}
	if c.Subject == nil {
		prefix := c.Prefix
		c.Subject = func(e outbox.Event) string { return subject(prefix, e) }
	}
	if c.Source == "" {
		c.Source = "endstate"
	}
	if c.AckTimeout == 0 {
		c.AckTimeout = 5 * time.Second
	}
	if c.MaxControlLine == 0 {
		c.MaxControlLine = defaultControlLine
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 4096
	}
	return c
}

// Publisher sends events to JetStream. It is safe for concurrent use.
type Publisher struct {
	js   jetstream.JetStream
	cfg  Config
	opts []jetstream.PublishOpt

	maxSubject int
}

var _ outbox.Publisher = (*Publisher)(nil)

// New makes a Publisher on a connection, which stays the caller's to close. It must reconnect forever: nats.MaxReconnects(-1),
// since a connection that has given up fails every later event. nats.Secure, and others, give it a tls.Config.
func New(conn *nats.Conn, cfg *Config) (*Publisher, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	if err := errors.Join(cfg.validate(), checkConn(conn)); err != nil {
		return nil, err
	}
	p := &Publisher{cfg: cfg.withDefaults()}
	p.maxSubject = maxSubject(conn, p.cfg.MaxControlLine)
	if len(p.cfg.Prefix) >= p.maxSubject {
		return nil, fmt.Errorf("%w: Config.Prefix is %d bytes long, and a subject at most %d", ErrConfig, len(p.cfg.Prefix), p.maxSubject)
	}
	var err error
	p.js, err = jetstream.New(conn, jetstream.WithPublishAsyncTimeout(p.cfg.AckTimeout), jetstream.WithPublishAsyncMaxPending(p.cfg.MaxInFlight))
	if err != nil {
		return nil, fmt.Errorf("natsjs: %w", err)
	}
	if p.cfg.Stream != "" {
		p.opts = append(p.opts, jetstream.WithExpectStream(p.cfg.Stream))
	}
	return p, nil
}

// Publish implements outbox.Publisher.
func (p *Publisher) Publish(ctx context.Context, batch []outbox.Event) []error {
	errs, acks := make([]error, len(batch)), make([]jetstream.PubAckFuture, len(batch))
	for i, e := range batch {
		acks[i], errs[i] = p.send(ctx, e)
	}
	failed := false
	for i, ack := range acks {
		if ack != nil {
			errs[i] = acknowledged(ctx, ack)
		}
		failed = failed || errs[i] != nil
	}
	if !failed {
		return nil
	}
	return errs
}

// send sends an event and returns where its acknowledgement will arrive.
func (p *Publisher) send(ctx context.Context, e outbox.Event) (jetstream.PubAckFuture, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("natsjs: %w", context.Cause(ctx))
	}
	subject := p.cfg.Subject(e)
	if !validSubject(subject) {
		return nil, outbox.Permanent(fmt.Errorf("natsjs: Config.Subject says %q for type %q, which is no subject", subject, e.Type))
	}
	if len(subject) > p.maxSubject {
		// The server would close the connection for it.
		return nil, outbox.Permanent(fmt.Errorf("natsjs: the subject %.60q… for type %.60q is %d bytes long, and Config.MaxControlLine of %d allows %d", subject, e.Type, len(subject), p.cfg.MaxControlLine, p.maxSubject))
	}
	m, err := message(e, subject, p.cfg.Source)
	if err != nil {
		return nil, outbox.Permanent(fmt.Errorf("natsjs: %w", err))
	}
	ack, err := p.js.PublishMsgAsync(m, p.opts...)
	if err != nil {
		return nil, refused(subject, err)
	}
	return ack, nil
}

// acknowledged waits for an acknowledgement. That of a repeat, which the stream has dropped, is one like any other.
func acknowledged(ctx context.Context, ack jetstream.PubAckFuture) error {
	select {
	case <-ack.Ok():
		return nil
	case err := <-ack.Err():
		return refused(ack.Msg().Subject, err)
	case <-ctx.Done():
		return fmt.Errorf("natsjs: publish to %q: %w", ack.Msg().Subject, context.Cause(ctx))
	}
}

// refused says what became of an event.
func refused(subject string, err error) error {
	wrapped := fmt.Errorf("natsjs: publish to %q: %w", subject, err)
	if tooLarge(err) {
		return outbox.Permanent(wrapped)
	}
	return wrapped
}

// headerExceedsMaximum is the server's code for a header that is longer than maxHeader.
const headerExceedsMaximum jetstream.ErrorCode = 10097

// tooLarge reports whether a message was refused for its size.
func tooLarge(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return errors.Is(err, nats.ErrMaxPayload) || ok && (api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum || api.ErrorCode == headerExceedsMaximum)
}
