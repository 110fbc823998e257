package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/internal/isnil"
	"github.com/endstate-go/endstate/outbox"
)

// Claims is the way of a consumer whose effects are in no transaction of ours: it claims the event in a store, such as Redis
// (package inboxredis), calls the function, and marks the event as handled. The effect happens usually once, see the package's
// promise: key the effect itself where a second one would hurt. It is safe for concurrent use.
type Claims struct {
	store ClaimStore
	cfg   ClaimsConfig
}

// ClaimsConfig says for whom Claims are made and how. Consumer is required.
type ClaimsConfig struct {
	// Consumer is the consumer's name, such as "entitlements": each consumer of an event handles it once. Keep it forever. At
	// most MaxConsumer bytes.
	Consumer string
	// Key is as in TableConfig. One event is looked for under the key that it has now, and under no other.
	Key func(outbox.Event) (string, error)
	// Types are as in TableConfig.
	Types []string
	// Tenant is as in TableConfig.
	Tenant func(context.Context) (string, error)
	// Wait is how long a delivery waits for another one of the same event; then it fails with ErrInProgress. Negative: not at
	// all. Default 5 s.
	Wait time.Duration
	// Lease is how long a claim outlives the process that died with it. While the function runs it is renewed, three times in
	// each lease. At least a millisecond; default 30 s.
	Lease time.Duration
	// Retention is for how long handled events are remembered: see TableConfig. Default 7 days.
	Retention time.Duration
	// FailOpen says what happens while the store doesn't answer. Default, closed: a delivery fails with ErrUnavailable, is
	// delivered again later, and a running function whose claim can't be renewed any more gets its context ended. Open: the
	// function is called without protection, which is right only where the effect itself is keyed.
	FailOpen bool
	// Logger gets a line at error level for an event that wasn't applied since one of another type has its key, at warn level
	// for other collisions and when an event may be handled twice, and at debug level for the rest. Default slog.Default().
	Logger *slog.Logger
}

func (c *ClaimsConfig) withDefaults() (ClaimsConfig, error) {
	if c == nil {
		return ClaimsConfig{}, fmt.Errorf("%w: ClaimsConfig is nil; Consumer is required", ErrConfig)
	}
	cfg := *c
	if cfg.Wait == 0 {
		cfg.Wait = 5 * time.Second
	}
	if cfg.Lease == 0 {
		cfg.Lease = 30 * time.Second
	}
	if cfg.Retention == 0 {
		cfg.Retention = 7 * 24 * time.Hour
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return cfg, cfg.validate()
}

func (c *ClaimsConfig) validate() error {
	fail := func(field, why string) error { return fmt.Errorf("%w: ClaimsConfig.%s %s", ErrConfig, field, why) }
	if err := checkText(c.Consumer, MaxConsumer); err != nil {
		return fail("Consumer", err.Error())
	}
	if err := checkTypes(c.Types); err != nil {
		return fail("Types", err.Error())
	}
	if c.Lease < time.Millisecond {
		return fail("Lease", fmt.Sprintf("is %v, the shortest is 1ms", c.Lease))
	}
	if c.Retention < c.Lease {
		return fail("Retention", fmt.Sprintf("is %v, shorter than Lease", c.Retention))
	}
	return nil
}

// NewClaims returns Claims in a store. It sends nothing.
func NewClaims(store ClaimStore, cfg *ClaimsConfig) (*Claims, error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if isnil.Any(store) {
		return nil, fmt.Errorf("%w: the ClaimStore is nil", ErrConfig)
	}
	return &Claims{store, c}, nil
}

var (
	_ Way[Func]       = (*Claims)(nil)
	_ Way[ResultFunc] = ClaimsResults{}
)

// Apply implements Way.
func (c *Claims) Apply(ctx context.Context, event outbox.Event, fn Func) (Result, error) {
	if fn == nil {
		return c.apply(ctx, event, nil)
	}
	return c.apply(ctx, event, func(ctx context.Context, event outbox.Event) ([]byte, error) { return nil, fn(ctx, event) })
}

// ClaimsResults are Claims for functions that return a result.
type ClaimsResults struct{ claims *Claims }

// Results returns c as a way for functions that return a result, which is kept and handed to repeats.
func (c *Claims) Results() ClaimsResults { return ClaimsResults{c} }

// Apply implements Way.
func (r ClaimsResults) Apply(ctx context.Context, event outbox.Event, fn ResultFunc) (Result, error) {
	return r.claims.apply(ctx, event, fn)
}

// consumerEscapes keeps key "refund:1" of consumer "credit" apart from key "1" of consumer "credit:refund".
var consumerEscapes = strings.NewReplacer("%", "%25", ":", "%3A")

func (c *Claims) apply(ctx context.Context, event outbox.Event, fn ResultFunc) (Result, error) {
	if !handles(c.cfg.Types, event.Type) {
		return skip(ctx, c.cfg.Logger, c.cfg.Consumer, event), nil
	}
	consumer, err := consumerOf(ctx, c.cfg.Tenant, c.cfg.Consumer)
	if err != nil {
		return Result{}, err
	}
	d, err := newDelivery(consumer, event, c.cfg.Key)
	if errors.Is(err, ErrSkip) {
		return skip(ctx, c.cfg.Logger, c.cfg.Consumer, event), nil
	}
	if err == nil && fn == nil {
		err = fmt.Errorf("inbox: %v: the function is nil", d)
	}
	if err != nil {
		return Result{}, err
	}
	one := &claim{Claims: c, delivery: d, storeKey: consumerEscapes.Replace(consumer) + ":" + d.key,
		own: Claim{EventID: d.event.ID.String(), Digest: d.digest, Token: uuid.NewString()}}
	result, over, err := one.take(ctx)
	switch {
	case err != nil && c.cfg.FailOpen && errors.Is(err, ErrUnavailable) && ctx.Err() == nil:
		c.cfg.Logger.WarnContext(ctx, "handling an event without a claim: the store is unavailable", d.attrs("error", err)...)
	case err != nil:
		return Result{}, fmt.Errorf("inbox: %v: %w", d, err)
	case over:
		d.report(ctx, c.cfg.Logger, result)
		return result, nil
	}
	value, err := one.run(ctx, fn)
	if errors.Is(err, ErrSkip) {
		return skip(ctx, c.cfg.Logger, c.cfg.Consumer, d.event), nil
	}
	if err != nil {
		return Result{}, fmt.Errorf("inbox: %v: %w", d, err)
	}
	result = Result{Outcome: Applied, First: d.event.ID, Value: value}
	d.report(ctx, c.cfg.Logger, result)
	return result, nil
}
