package lock

import (
	"fmt"
	"log/slog"
	"time"
)

// RedisConfig says how a Redis lock works. A nil one has the defaults.
type RedisConfig struct {
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

func (c *RedisConfig) withDefaults() (RedisConfig, error) {
	cfg := RedisConfig{}
	if c != nil {
		cfg = *c
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "endstate:lock:"
	}
	if err := defaults(
		duration{"TTL", &cfg.TTL, 10 * time.Second}, duration{"Timeout", &cfg.Timeout, 250 * time.Millisecond},
		duration{"MinPoll", &cfg.MinPoll, 20 * time.Millisecond}, duration{"MaxPoll", &cfg.MaxPoll, 500 * time.Millisecond},
		duration{"Pause", &cfg.Pause, time.Second},
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
		return cfg, fmt.Errorf("%w: Prefix is %d bytes long, the limit is 200", ErrConfig, len(cfg.Prefix))
	case cfg.TTL%time.Millisecond != 0:
		return cfg, fmt.Errorf("%w: TTL is %v; Redis counts whole milliseconds", ErrConfig, cfg.TTL)
	case cfg.TTL < 4*cfg.Timeout:
		return cfg, fmt.Errorf("%w: TTL is %v; it must be at least four times Timeout (%v), so that a renewal that fails can be repeated before the lease ends",
			ErrConfig, cfg.TTL, cfg.Timeout)
	case cfg.MinPoll > cfg.MaxPoll:
		return cfg, fmt.Errorf("%w: MinPoll is %v, which is more than MaxPoll (%v)", ErrConfig, cfg.MinPoll, cfg.MaxPoll)
	case cfg.Failures < 0:
		return cfg, fmt.Errorf("%w: Failures is negative", ErrConfig)
	}
	return cfg, nil
}
