package relay

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// Config says how a Relay works. Every field has a default, and so has a nil *Config.
type Config struct {
	// Outbox names the table. The zero Writer is endstate_outbox.
	Outbox outbox.Writer
	// Dialect is "postgres" or "sqlite", for NewSQL. Empty: told by the driver.
	Dialect string
	// Name tells people which relay this is. Default: host name and process id.
	Name string

	// Subscription is whom the relay works for. Each subscription gets every event; the relays of one share the work. Default
	// "default".
	Subscription string
	// Types are the event types that the subscription is about: whole ones, or prefixes that end in an asterisk
	// ("assessment.*"). Empty: all. All relays of a subscription must name the same.
	Types []string
	// Start is where a new subscription begins: Begin (the default), End, or At a time. It counts once, when the subscription
	// is made.
	Start Start
	// Destination says where the publisher publishes: "https://partner.example". Of an URL only scheme and host are kept.
	// Default: what the publisher says, if it is an outbox.Addressed. A relay with another destination than the running ones
	// of its subscription is refused: they would split the events between them.
	Destination string

	// BatchSize bounds how many events are published at once. Default 1,000.
	BatchSize int
	// PublishTimeout bounds one call of Publisher.Publish, or of a consumer's handler, there at most half of LeaseTTL. Default 30 s.
	PublishTimeout time.Duration
	// ShutdownTimeout bounds how long Run lets a call of Publish go on after its context has ended. Default 10 s.
	ShutdownTimeout time.Duration
	// PollInterval is the longest time between two looks at the table. While events come, and shortly after, looks follow
	// faster. Default 1 s.
	PollInterval time.Duration
	// LeaseTTL is how long the partitions of a relay that died stay its own: the longest time for which their events wait. It
	// must be longer than the pauses of a process that lives (garbage collection, a busy host, an exhausted pool). Default
	// 10 s.
	LeaseTTL time.Duration

	// MinBackoff is the pause before a failed event's second attempt; each further one is twice as long, up to MaxBackoff,
	// with jitter. Defaults 1 s and 10 min.
	MinBackoff, MaxBackoff time.Duration
	// MaxAttempts is how often an event may fail before it is dead. Default 100, which with the default backoffs is about 15
	// hours: a broker may be away for a night.
	MaxAttempts int
	// MaxCrashes is how many relays an event may kill, each time as the only one being published, before it is dead.
	// Default 3.
	MaxCrashes int
	// Unordered lets later events of an aggregate overtake one that failed. Default: they wait until it is published or dead.
	Unordered bool

	// Retention is how long events stay in the table after all subscriptions have published them: KeepForever (the default),
	// DeleteOnPublish, or a time, after which relays delete them in small batches. A deleted event's dedup key is free again.
	Retention time.Duration

	// ListenURL is where to LISTEN for a Notifier's wake-ups, on a connection of the relay's own: the connection string of
	// the primary itself. Behind a pooler in transaction mode notifications get lost, which the relay notices and logs.
	// Empty: the relay finds events by polling, and by Wake. PostgreSQL only.
	ListenURL string

	// Logger gets a line at info level when the relay starts, stops, or its partitions change; at warn level for failures; at
	// debug level for each batch. Default slog.Default().
	Logger *slog.Logger
	// Trace are callbacks for metrics and traces.
	Trace *Trace

	firstPoll    time.Duration // the shortest time between two looks
	balanceEvery time.Duration // how often relays look whether each has its share
	sampleEvery  time.Duration // how often a moving cursor is written down
	alone        time.Duration // how long the only event there is may fail before it is to blame
	types        string        // Types, as JSON

	minOutage, maxOutage time.Duration // pauses while the destination takes nothing
}

// Values of Config.Retention.
const (
	KeepForever     time.Duration = 0
	DeleteOnPublish time.Duration = -1
)

// Start is where a new subscription begins: Begin, End, or what At returns.
type Start string

const (
	Begin Start = "begin" // the first event that the table has
	End   Start = "end"   // behind what is committed
)

// At is the start with the events that were written at a time or later.
func At(t time.Time) Start { return Start(t.UTC().Format(time.RFC3339Nano)) }

// DefaultSubscription is the subscription of who doesn't name one.
const DefaultSubscription = "default"

func (c *Config) withDefaults() (Config, error) {
	if c == nil {
		c = &Config{}
	}
	cfg := *c
	if cfg.Name == "" {
		host, _ := os.Hostname() // only for people
		cfg.Name = fmt.Sprintf("%s/%d", host, os.Getpid())
	}
	if cfg.Subscription == "" {
		cfg.Subscription = DefaultSubscription
	}
	if cfg.Start == "" {
		cfg.Start = Begin
	}
	list, _ := json.Marshal(append([]string{}, cfg.Types...)) // can't fail
	cfg.types = string(list)
	if u, err := url.Parse(cfg.Destination); err == nil && u.Host != "" {
		cfg.Destination = u.Scheme + "://" + u.Host
	}
	for _, f := range []struct {
		field    *time.Duration
		fallback time.Duration
	}{
		{&cfg.PublishTimeout, 30 * time.Second}, {&cfg.ShutdownTimeout, 10 * time.Second}, {&cfg.PollInterval, time.Second},
		{&cfg.LeaseTTL, 10 * time.Second}, {&cfg.MinBackoff, time.Second}, {&cfg.MaxBackoff, max(10*time.Minute, cfg.MinBackoff)},
		{&cfg.firstPoll, 5 * time.Millisecond}, {&cfg.balanceEvery, time.Second}, {&cfg.sampleEvery, 30 * time.Second}, {&cfg.alone, 5 * time.Second},
		{&cfg.minOutage, minOutage}, {&cfg.maxOutage, maxOutage},
	} {
		if *f.field == 0 {
			*f.field = f.fallback
		}
	}
	if cfg.Retention > 0 {
		cfg.sampleEvery = min(cfg.sampleEvery, max(cfg.Retention/4, 50*time.Millisecond))
	}
	for _, f := range []struct {
		field    *int
		fallback int
	}{{&cfg.BatchSize, 1000}, {&cfg.MaxAttempts, 100}, {&cfg.MaxCrashes, 3}} {
		if *f.field == 0 {
			*f.field = f.fallback
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Trace == nil {
		cfg.Trace = &Trace{}
	}
	return cfg, cfg.validate()
}

const (
	maxBatchSize = 10_000
	minLeaseTTL  = 500 * time.Millisecond
)

func (c *Config) validate() error {
	fail := func(field, why string) error {
		return fmt.Errorf("%w: relay.Config.%s %s", outbox.ErrConfig, field, why)
	}
	if err := validateOutbox(c.Outbox); err != nil {
		return err
	}
	if err := validateSubscription(c.Subscription); err != nil {
		return fmt.Errorf("%w: relay.Config.Subscription %w", outbox.ErrConfig, err)
	}
	if _, err := time.Parse(time.RFC3339Nano, string(c.Start)); err != nil && c.Start != Begin && c.Start != End {
		return fail("Start", fmt.Sprintf("is %q; use Begin, End or At", c.Start))
	}
	for _, pattern := range c.Types {
		if prefix := strings.TrimSuffix(pattern, "*"); pattern == "" || len(pattern) > outbox.MaxName || sqltx.CheckText(pattern) != nil || strings.Contains(prefix, "*") {
			return fail("Types", fmt.Sprintf("has %q; a pattern is an event type, or a prefix and an asterisk", pattern))
		}
	}
	if strings.ContainsAny(c.Destination, "@\x00") || len(c.Destination) > outbox.MaxName {
		return fail("Destination", "is not scheme and host") // and may hold a password
	}
	switch sqltx.Dialect(c.Dialect) {
	case "", sqltx.Postgres, sqltx.SQLite:
	default:
		return fail("Dialect", fmt.Sprintf("is %q; use postgres or sqlite", c.Dialect))
	}
	if err := sqltx.CheckText(c.Name); err != nil {
		return fail("Name", err.Error())
	}
	if c.BatchSize < 1 || c.BatchSize > maxBatchSize {
		return fail("BatchSize", fmt.Sprintf("is %d, it goes from 1 to %d", c.BatchSize, maxBatchSize))
	}
	for name, d := range map[string]time.Duration{"PublishTimeout": c.PublishTimeout, "ShutdownTimeout": c.ShutdownTimeout,
		"PollInterval": c.PollInterval, "MinBackoff": c.MinBackoff} {
		if d < 0 {
			return fail(name, "is negative")
		}
	}
	switch {
	case c.LeaseTTL < minLeaseTTL:
		return fail("LeaseTTL", fmt.Sprintf("is %v, the shortest is %v", c.LeaseTTL, minLeaseTTL))
	case c.MaxBackoff < c.MinBackoff:
		return fail("MaxBackoff", "is shorter than MinBackoff")
	case c.MaxAttempts < 1:
		return fail("MaxAttempts", "is negative")
	case c.MaxCrashes < 1:
		return fail("MaxCrashes", "is negative")
	case c.Retention < DeleteOnPublish:
		return fail("Retention", "is negative; use KeepForever, DeleteOnPublish or a time")
	}
	if c.ListenURL != "" {
		if _, err := pgx.ParseConfig(c.ListenURL); err != nil {
			return fail("ListenURL", "is not a connection string") // which may hold a password, and err holds it
		}
	}
	return nil
}

func validateOutbox(w outbox.Writer) error {
	if w.Columns == nil {
		return w.Validate()
	}
	return fmt.Errorf("%w: Writer.Columns is set: %s is the service's own, and so is what publishes from it", outbox.ErrConfig, w.Name())
}

func validateSubscription(name string) error {
	if len(name) > outbox.MaxName {
		return fmt.Errorf("is %d bytes long, the limit is %d", len(name), outbox.MaxName)
	}
	return sqltx.CheckText(name)
}
