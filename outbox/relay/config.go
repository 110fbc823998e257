package relay

import (
	"cmp"
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

// Config says how a Relay works. Every field has a default, and so has a nil *Config. An Admin and a Notifier take the same, and go
// by Outbox and Dialect, and by Logger.
type Config struct {
	// Outbox names the table. The zero Writer is endstate_outbox.
	Outbox outbox.Writer
	// Dialect is "postgres" or "sqlite", for what is made on a *sql.DB. Empty: told by the driver.
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
	// Destination says where the publisher publishes: "https://partner.example". Of a URL only scheme and host are kept.
	// Default: what the publisher says, if it is an outbox.Addressed. A relay with another destination than the running ones
	// of its subscription is refused: they would split the events between them.
	Destination string

	// BatchSize bounds how many events are published at once, from 1 to 10,000. Default 1,000.
	BatchSize int
	// PublishTimeout bounds one call of Publisher.Publish, or of a consumer's handler, there at most half of LeaseTTL, and, before it,
	// the fetch of large payloads. Default 30 s.
	PublishTimeout time.Duration
	// ShutdownTimeout bounds how long Run lets a call of Publish go on after its context has ended. Default 10 s.
	ShutdownTimeout time.Duration
	// PollInterval is the longest time between two looks at the table. While events come, and shortly after, looks follow
	// faster. Default 1 s.
	PollInterval time.Duration
	// LeaseTTL is how long the partitions of a relay that died stay its own: the longest time for which their events wait. It
	// must be longer than the pauses of a process that lives (garbage collection, a busy host, an exhausted pool). For half of it
	// an answer of the database is waited for; then the connection counts as gone. From 500 ms to a day. Default 10 s.
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
	// DeleteOnPublish, or a time of at most 100 years, after which relays delete them in small batches. A deleted event's dedup key is
	// free again.
	Retention time.Duration

	// ListenURL is where to LISTEN for a Notifier's wake-ups, on a connection of the relay's own: the connection string of
	// the primary itself. Behind a pooler in transaction mode notifications get lost, which the relay notices and logs.
	// Empty: the relay finds events by polling, and by Wake. PostgreSQL only.
	ListenURL string

	// Logger gets a line at info level when the relay starts, stops, or its partitions change; at warn level for failures; at error
	// level for dead events, for those that were deleted before they were published, and for a publisher that panics; at debug level
	// for each batch. Default slog.Default().
	Logger *slog.Logger
	// Trace are callbacks for metrics and traces.
	Trace *Trace

	firstPoll    time.Duration // the shortest time between two looks
	balanceEvery time.Duration // how often relays look whether each has its share
	sampleEvery  time.Duration // how often a moving cursor is written down
	alone        time.Duration // how long the only event there is may fail before it is to blame
	pass         time.Duration // how long a pass goes on with further calls; what was published is written down first
	piece        int           // how many parked events a statement goes over
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
	End   Start = "end"   // behind what is committed when Run has found the end, in two readings; one that ends before leaves it to the next
)

// At is the start with the events that were written at a time or later.
func At(t time.Time) Start { return Start(t.UTC().Format(time.RFC3339Nano)) }

// DefaultSubscription is the subscription of who doesn't name one.
const DefaultSubscription = "default"

func (c *Config) withDefaults() (*Config, error) {
	var cfg Config
	if c != nil {
		cfg = *c
	}
	host, _ := os.Hostname() // only for people
	cfg.Name = cmp.Or(cfg.Name, fmt.Sprintf("%s/%d", host, os.Getpid()))
	cfg.Subscription = cmp.Or(cfg.Subscription, DefaultSubscription)
	cfg.Start = cmp.Or(cfg.Start, Begin)
	list, _ := json.Marshal(append([]string{}, cfg.Types...)) // can't fail
	cfg.types = string(list)
	if u, err := url.Parse(cfg.Destination); err == nil && u.Host != "" {
		cfg.Destination = u.Scheme + "://" + u.Host
	}
	cfg.BatchSize = cmp.Or(cfg.BatchSize, 1000)
	cfg.PublishTimeout = cmp.Or(cfg.PublishTimeout, 30*time.Second)
	cfg.ShutdownTimeout = cmp.Or(cfg.ShutdownTimeout, 10*time.Second)
	cfg.PollInterval = cmp.Or(cfg.PollInterval, time.Second)
	cfg.LeaseTTL = cmp.Or(cfg.LeaseTTL, 10*time.Second)
	cfg.MinBackoff = cmp.Or(cfg.MinBackoff, time.Second)
	cfg.MaxBackoff = cmp.Or(cfg.MaxBackoff, max(10*time.Minute, cfg.MinBackoff))
	cfg.MaxAttempts = cmp.Or(cfg.MaxAttempts, 100)
	cfg.MaxCrashes = cmp.Or(cfg.MaxCrashes, 3)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	cfg.Trace = cmp.Or(cfg.Trace, &Trace{})
	cfg.firstPoll = cmp.Or(cfg.firstPoll, 5*time.Millisecond)
	cfg.balanceEvery = cmp.Or(cfg.balanceEvery, time.Second)
	cfg.pass = cmp.Or(cfg.pass, time.Second)
	cfg.piece = cmp.Or(cfg.piece, 5_000)
	cfg.alone = cmp.Or(cfg.alone, 5*time.Second)
	cfg.minOutage, cfg.maxOutage = cmp.Or(cfg.minOutage, minOutage), cmp.Or(cfg.maxOutage, maxOutage)
	if cfg.sampleEvery = cmp.Or(cfg.sampleEvery, 30*time.Second); cfg.Retention > 0 {
		cfg.sampleEvery = min(cfg.sampleEvery, max(cfg.Retention/4, 50*time.Millisecond))
	}
	return &cfg, cfg.validate()
}

const (
	maxBatchSize = 10_000
	minLeaseTTL  = 500 * time.Millisecond
	maxLeaseTTL  = 24 * time.Hour
	maxRetention = 100 * 365 * 24 * time.Hour // twice as long, and more, is still a duration
)

func (c *Config) validate() error {
	if c.Outbox.Columns != nil {
		return fmt.Errorf("%w: Writer.Columns is set: %s is the service's own, and so is what publishes from it", outbox.ErrConfig, c.Outbox.Name())
	}
	if err := c.Outbox.Validate(); err != nil {
		return err
	}
	if err := validateSubscription(c.Subscription); err != nil {
		return fmt.Errorf("%w: relay.Config.Subscription %w", outbox.ErrConfig, err)
	}
	if err := sqltx.CheckText(c.Name); err != nil {
		return fmt.Errorf("%w: relay.Config.Name %w", outbox.ErrConfig, err)
	}
	start, notTime := time.Parse(time.RFC3339Nano, string(c.Start))
	_, notURL := pgx.ParseConfig(c.ListenURL) // may hold a password, and so may the error
	for _, f := range []struct {
		wrong      bool
		field, why string
	}{
		{(notTime != nil || !kept(start)) && c.Start != Begin && c.Start != End, "Start", fmt.Sprintf("is %q; use Begin, End or At", c.Start)},
		{strings.Contains(c.Destination, "@") || sqltx.CheckText(c.Destination) != nil || len(c.Destination) > outbox.MaxName, "Destination", "is not scheme and host"}, // and may hold a password
		{c.BatchSize < 1 || c.BatchSize > maxBatchSize, "BatchSize", fmt.Sprintf("is %d, it goes from 1 to %d", c.BatchSize, maxBatchSize)},
		{c.PublishTimeout < 0, "PublishTimeout", "is negative"},
		{c.ShutdownTimeout < 0, "ShutdownTimeout", "is negative"},
		{c.PollInterval < 0, "PollInterval", "is negative"},
		{c.MinBackoff < 0, "MinBackoff", "is negative"},
		{c.MaxBackoff < c.MinBackoff, "MaxBackoff", "is shorter than MinBackoff"},
		{c.LeaseTTL < minLeaseTTL, "LeaseTTL", fmt.Sprintf("is %v, the shortest is %v", c.LeaseTTL, minLeaseTTL)},
		{c.LeaseTTL > maxLeaseTTL, "LeaseTTL", fmt.Sprintf("is %v, the longest is %v", c.LeaseTTL, maxLeaseTTL)},
		{c.MaxAttempts < 1, "MaxAttempts", "is negative"},
		{c.MaxCrashes < 1, "MaxCrashes", "is negative"},
		{c.Retention < DeleteOnPublish, "Retention", "is negative; use KeepForever, DeleteOnPublish or a time"},
		{c.Retention > maxRetention, "Retention", "is longer than 100 years; use KeepForever"},
		{c.ListenURL != "" && notURL != nil, "ListenURL", "is not a connection string"},
	} {
		if f.wrong {
			return fmt.Errorf("%w: relay.Config.%s %s", outbox.ErrConfig, f.field, f.why)
		}
	}
	for _, pattern := range c.Types {
		if prefix := strings.TrimSuffix(pattern, "*"); pattern == "" || len(pattern) > outbox.MaxName || sqltx.CheckText(pattern) != nil || strings.Contains(prefix, "*") {
			return fmt.Errorf("%w: relay.Config.Types has %q; a pattern is an event type, or a prefix and an asterisk", outbox.ErrConfig, pattern)
		}
	}
	return nil
}

func validateSubscription(name string) error {
	if len(name) > outbox.MaxName {
		return fmt.Errorf("is %d bytes long, the limit is %d", len(name), outbox.MaxName)
	}
	return sqltx.CheckText(name)
}
