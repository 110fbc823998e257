package outbox

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// RelayConfig says how a Relay works. Every field has a default, and so has a nil *RelayConfig.
type RelayConfig struct {
	// Outbox names the table. The zero Writer is endstate_outbox.
	Outbox Writer
	// Dialect is "postgres" or "sqlite". Empty: told by the driver.
	Dialect string
	// Name tells people which relay this is. Default: host name and process id.
	Name string

	// BatchSize bounds how many events are published at once. Default 500.
	BatchSize int
	// PublishTimeout bounds one call of Publisher.Publish. Default 30 s.
	PublishTimeout time.Duration
	// ShutdownTimeout bounds how long Run lets a call of Publish go on after its context has ended. Default 10 s.
	ShutdownTimeout time.Duration
	// PollInterval is the longest time between two looks at the table. While events come, and shortly after, looks follow
	// faster. Default 1 s.
	PollInterval time.Duration
	// LeaseTTL is how long the shards of a relay that died stay its own: the longest time for which their events wait. It
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

	// Retention is how long published events stay in the table: KeepForever (the default), DeleteOnPublish, or a time, after
	// which relays delete them in small batches. A deleted event's dedup key is free again.
	Retention time.Duration

	// ListenURL is where to LISTEN for a Notifier's wake-ups, on a connection of the relay's own: the connection string of
	// the primary itself. Behind a pooler in transaction mode notifications get lost, which the relay notices and logs.
	// Empty: the relay finds events by polling, and by Wake. PostgreSQL only.
	ListenURL string

	// Logger gets a line at info level when the relay starts, stops, or its shards change; at warn level for failures; at
	// debug level for each batch. Default slog.Default().
	Logger *slog.Logger
	// Trace are callbacks for metrics and traces.
	Trace *RelayTrace

	firstPoll    time.Duration // the shortest time between two looks
	balanceEvery time.Duration // how often relays look whether each has its share
}

// Values of RelayConfig.Retention.
const (
	KeepForever     time.Duration = 0
	DeleteOnPublish time.Duration = -1
)

func (c *RelayConfig) withDefaults() (RelayConfig, error) {
	if c == nil {
		c = &RelayConfig{}
	}
	cfg := *c
	if cfg.Name == "" {
		host, _ := os.Hostname() // only for people
		cfg.Name = fmt.Sprintf("%s/%d", host, os.Getpid())
	}
	for _, f := range []struct {
		field    *time.Duration
		fallback time.Duration
	}{
		{&cfg.PublishTimeout, 30 * time.Second}, {&cfg.ShutdownTimeout, 10 * time.Second}, {&cfg.PollInterval, time.Second},
		{&cfg.LeaseTTL, 10 * time.Second}, {&cfg.MinBackoff, time.Second}, {&cfg.MaxBackoff, max(10*time.Minute, cfg.MinBackoff)},
		{&cfg.firstPoll, 5 * time.Millisecond}, {&cfg.balanceEvery, time.Second},
	} {
		if *f.field == 0 {
			*f.field = f.fallback
		}
	}
	for _, f := range []struct {
		field    *int
		fallback int
	}{{&cfg.BatchSize, 500}, {&cfg.MaxAttempts, 100}, {&cfg.MaxCrashes, 3}} {
		if *f.field == 0 {
			*f.field = f.fallback
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Trace == nil {
		cfg.Trace = &RelayTrace{}
	}
	return cfg, cfg.validate()
}

const (
	maxBatchSize = 10_000
	minLeaseTTL  = 500 * time.Millisecond
)

func (c *RelayConfig) validate() error {
	fail := func(field, why string) error { return fmt.Errorf("%w: RelayConfig.%s %s", ErrConfig, field, why) }
	if err := c.Outbox.validateOwn(); err != nil {
		return err
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
