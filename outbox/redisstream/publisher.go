package redisstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/internal/redisclient"
	"github.com/endstate-go/endstate/outbox"
)

// DefaultStream is the stream's key unless the Config says otherwise.
const DefaultStream = "endstate:events"

// Config says where events go. The zero Config, or nil, is ready for use.
type Config struct {
	// Stream is the key of the stream for all events. Default DefaultStream.
	Stream string
	// StreamFor names the stream for an event instead, by its type or aggregate type for instance.
	StreamFor func(outbox.Event) string
	// MaxLen has each stream trimmed to about that many entries, by MAXLEN ~. Zero: not by length.
	MaxLen int64
	// MaxAge has entries removed that are older, about, by MINID ~. Redis's clock counts: it is taken from the ids that Redis
	// gave. Zero: not by age. Only one of MaxLen and MaxAge can be set, since XADD takes one.
	MaxAge time.Duration
	// MaxPayload is the longest payload in bytes that the server takes, its proto-max-bulk-len; a longer one is refused for
	// good. Default 512 MiB, as Redis has it.
	MaxPayload int
}

// ErrConfig is returned for a Config, or a client, that doesn't make sense.
var ErrConfig = errors.New("redisstream: invalid configuration")

func (c Config) validate() error {
	switch {
	case c.Stream != "" && c.StreamFor != nil:
		return fmt.Errorf("%w: Config.Stream and Config.StreamFor are both set", ErrConfig)
	case c.MaxLen < 0:
		return fmt.Errorf("%w: Config.MaxLen is %d", ErrConfig, c.MaxLen)
	case c.MaxAge < 0 || c.MaxAge > 0 && c.MaxAge < time.Millisecond:
		return fmt.Errorf("%w: Config.MaxAge is %v", ErrConfig, c.MaxAge)
	case c.MaxLen > 0 && c.MaxAge > 0:
		return fmt.Errorf("%w: Config.MaxLen and Config.MaxAge are both set, and XADD takes one", ErrConfig)
	case c.MaxPayload < 0:
		return fmt.Errorf("%w: Config.MaxPayload is %d", ErrConfig, c.MaxPayload)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Stream == "" {
		c.Stream = DefaultStream
	}
	if c.StreamFor == nil {
		stream := c.Stream
		c.StreamFor = func(outbox.Event) string { return stream }
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = 512 << 20
	}
	return c
}

func checkClient(client redis.UniversalClient) error {
	if err := redisclient.Check(client); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return nil
}

// Publisher adds events to streams. It is safe for concurrent use.
type Publisher struct {
	client redis.UniversalClient
	cfg    Config

	mu  sync.Mutex
	now map[string]int64 // Redis's clock at the last entry of each stream, in milliseconds; only for MaxAge
}

var _ outbox.Publisher = (*Publisher)(nil)

// New makes a Publisher on a client, which stays the caller's to close.
func New(client redis.UniversalClient, cfg *Config) (*Publisher, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	if err := errors.Join(cfg.validate(), checkClient(client)); err != nil {
		return nil, err
	}
	return &Publisher{client: client, cfg: cfg.withDefaults(), now: map[string]int64{}}, nil
}

// maxPipeline bounds the payloads of one pipeline, in bytes. Every server takes a payload of that size, so one that is too
// large for it, and ends the connection, is alone.
const maxPipeline = 1 << 20

// Publish implements outbox.Publisher.
func (p *Publisher) Publish(ctx context.Context, batch []outbox.Event) []error {
	errs, failed := make([]error, len(batch)), false
	for from := 0; from < len(batch); {
		to, size := from, 0
		for to < len(batch) && (to == from || size+len(batch[to].Payload) <= maxPipeline) {
			size += len(batch[to].Payload)
			to++
		}
		if !p.pipeline(ctx, batch[from:to], errs[from:to]) {
			failed = true
		}
		from = to
	}
	if !failed {
		return nil
	}
	return errs
}

// pipeline adds some events, and reports whether Redis took all of them. A server that refuses a command for its form closes the
// connection after its answer, and the pool may hand that connection to the next pipeline: one that gets no answer because the
// server has hung up is sent once more.
func (p *Publisher) pipeline(ctx context.Context, events []outbox.Event, errs []error) (ok bool) {
	for range 2 {
		var again bool
		if ok, again = p.add(ctx, events, errs); !again {
			break
		}
	}
	return ok
}

// add sends some events, and reports whether Redis took all of them, and whether the server hung up without an answer.
func (p *Publisher) add(ctx context.Context, events []outbox.Event, errs []error) (ok, hungUp bool) {
	pipe, added := p.client.Pipeline(), make([]*redis.StringCmd, len(events))
	for i, e := range events {
		if ctx.Err() != nil {
			errs[i] = fmt.Errorf("redisstream: %w", context.Cause(ctx))
			continue
		}
		stream := p.cfg.StreamFor(e)
		switch {
		case stream == "":
			errs[i] = outbox.Permanent(fmt.Errorf("redisstream: Config.StreamFor names no stream for type %q", e.Type))
		case len(e.Payload) > p.cfg.MaxPayload:
			errs[i] = outbox.Permanent(fmt.Errorf("redisstream: the payload is %d bytes long, Config.MaxPayload is %d", len(e.Payload), p.cfg.MaxPayload))
		default:
			added[i] = pipe.XAdd(ctx, p.args(stream, e))
		}
	}
	_, failure := pipe.Exec(ctx)
	ok, hungUp = true, hasHungUp(failure)
	for i, cmd := range added {
		if cmd != nil {
			errs[i] = p.taken(cmd, failure)
			hungUp = hungUp && hasHungUp(errs[i])
		}
		ok = ok && errs[i] == nil
	}
	return ok, hungUp
}

func hasHungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// taken is nil if Redis has answered a command with an entry's id. A command without either an id or an error of its own
// has the pipeline's.
func (p *Publisher) taken(cmd *redis.StringCmd, failure error) error {
	stream, id, err := cmd.Args()[1].(string), cmd.Val(), cmd.Err()
	if err == nil && id == "" {
		err = cmp.Or(failure, errNoAnswer)
	}
	if err != nil {
		return refused(stream, err)
	}
	p.saw(stream, id)
	return nil
}

var errNoAnswer = errors.New("no answer")

func (p *Publisher) args(stream string, e outbox.Event) *redis.XAddArgs {
	args := &redis.XAddArgs{Stream: stream, Values: Encode(e), MaxLen: p.cfg.MaxLen, Approx: p.cfg.MaxLen > 0}
	if p.cfg.MaxAge > 0 {
		p.mu.Lock()
		now := p.now[stream]
		p.mu.Unlock()
		if oldest := now - p.cfg.MaxAge.Milliseconds(); now > 0 && oldest > 0 {
			args.MinID, args.Approx = strconv.FormatInt(oldest, 10), true
		}
	}
	return args
}

// saw reads Redis's clock from an entry's id.
func (p *Publisher) saw(stream, id string) {
	if p.cfg.MaxAge == 0 {
		return
	}
	milliseconds, _, _ := strings.Cut(id, "-")
	if now, err := strconv.ParseInt(milliseconds, 10, 64); err == nil {
		p.mu.Lock()
		p.now[stream] = now
		p.mu.Unlock()
	}
}

// refused says what became of an event. Redis has no code for what is too large, only a text.
func refused(stream string, err error) error {
	wrapped := fmt.Errorf("redisstream: XADD to %q: %w", stream, err)
	var answer redis.Error
	if errors.As(err, &answer) {
		for _, tooLarge := range []string{"ERR Protocol error: invalid bulk length", "ERR Elements are too large to be stored"} {
			if strings.HasPrefix(answer.Error(), tooLarge) {
				return outbox.Permanent(wrapped)
			}
		}
	}
	return wrapped
}
