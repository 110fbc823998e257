package lockredis

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"

	"github.com/endstate-go/endstate/internal/lease"
	"github.com/endstate-go/endstate/lock"
)

// Config says how a Lock works. A nil one has the defaults.
type Config struct {
	// Prefix goes before each key in Redis. Default "endstate:lock:". At most 200 bytes.
	Prefix string
	// TTL is how long a lock outlives a holder who vanished. It is renewed at a third of it for as long as fn runs, and at
	// nine tenths, by the holder's own monotonic clock, a lease that could not be renewed is lost. Whole milliseconds, at
	// least four times Timeout. Default 10 s.
	TTL time.Duration
	// Timeout bounds each trip to Redis, whatever the client's own timeouts are. At least a millisecond. Default 250 ms.
	Timeout time.Duration
	// MinPoll and MaxPoll bound the time after which a waiter asks again, which grows from the one to the other and is
	// jittered. Defaults 20 ms and 500 ms.
	MinPoll, MaxPoll time.Duration
	// NoWakeUp leaves out the message that a release sends to waiters, and their subscription: they only poll then.
	NoWakeUp bool
	// Failures in a row after which Redis isn't asked for Pause; calls fail with ErrUnavailable at once. Defaults 3 and 1 s.
	Failures int
	Pause    time.Duration
	// Logger gets a line at warn level for each lease that is lost and each lock that could not be given back. Default
	// slog.Default().
	Logger *slog.Logger
}

func (c *Config) withDefaults() (Config, error) {
	cfg := Config{}
	if c != nil {
		cfg = *c
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "endstate:lock:"
	}
	if err := cmp.Or(
		lease.Default("TTL", &cfg.TTL, 10*time.Second), lease.Default("Timeout", &cfg.Timeout, 250*time.Millisecond),
		lease.Default("MinPoll", &cfg.MinPoll, 20*time.Millisecond), lease.Default("MaxPoll", &cfg.MaxPoll, 500*time.Millisecond),
		lease.Default("Pause", &cfg.Pause, time.Second),
	); err != nil {
		return cfg, err
	}
	if cfg.Failures == 0 {
		cfg.Failures = 3
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	switch {
	case len(cfg.Prefix) > 200:
		return cfg, fmt.Errorf("%w: Prefix is %d bytes long, the limit is 200", lock.ErrConfig, len(cfg.Prefix))
	case cfg.TTL%time.Millisecond != 0:
		return cfg, fmt.Errorf("%w: TTL is %v; Redis counts whole milliseconds", lock.ErrConfig, cfg.TTL)
	case cfg.TTL/4 < cfg.Timeout:
		return cfg, fmt.Errorf("%w: TTL is %v; it must be at least four times Timeout (%v), so that a renewal that fails can be repeated before the lease ends",
			lock.ErrConfig, cfg.TTL, cfg.Timeout)
	case cfg.MinPoll > cfg.MaxPoll:
		return cfg, fmt.Errorf("%w: MinPoll is %v, which is more than MaxPoll (%v)", lock.ErrConfig, cfg.MinPoll, cfg.MaxPoll)
	case cfg.Failures < 0:
		return cfg, fmt.Errorf("%w: Failures is negative", lock.ErrConfig)
	}
	return cfg, nil
}
