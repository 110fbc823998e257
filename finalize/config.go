package finalize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/isnil"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// Config says what a Finalizer finalizes and how. Aggregate and Guard are required.
type Config struct {
	// Aggregate is the aggregate type's name, such as "batch": part of every ledger entry and dedup key, so that batch 1
	// never closes invoice 1. Keep it forever. At most 200 bytes.
	Aggregate string
	// Guard decides who may finalize: guard.Status, guard.Ledger, guard.All of both, or your own.
	Guard guard.Guard
	// Outbox is where events go. The zero Writer writes to the table endstate_outbox.
	Outbox outbox.Writer
	// Tenant names the tenant for whom a call is made, from the call's context. Set it where the key alone doesn't name an
	// aggregate to this Finalizer, because what its connections show depends on the caller: other schemas (search_path), other
	// rows (row-level security), other databases. The tenant is part of the key of whatever is kept in this process and of the
	// lock's; a group of Settle calls is one tenant's, and runs under a context of one of its calls. It is no part of what is
	// stored: tenants who share a table need keys that are unique among them, such as guard.Composite of tenant and id. At
	// most 200 bytes. A call for which it returns an error, or "", fails with ErrTenant. Default: there is one tenant.
	Tenant func(context.Context) (string, error)
	// Dialect is "postgres" or "sqlite", for NewSQL. Empty: told by the driver.
	Dialect string
	// ClaimTimeout bounds each wait for another call that holds the aggregate (of this process, and then in the database), after
	// which the call fails with ErrBusy, and the wait for a connection, after which it fails with ErrPoolExhausted. Default
	// 30 s.
	ClaimTimeout time.Duration
	// IdleWarning is for how long a callback may leave its transaction unused (on database/sql: run) before a line at warn level
	// names its aggregate, and again each time that it has doubled: what a callback waits for outside of its transaction keeps
	// everybody else from the aggregate, and a second connection of the pool may never come. Default 10 s.
	IdleWarning time.Duration
	// MaxAttempts bounds how often a call runs its transaction when the database breaks it off (serialization failure,
	// deadlock) or loses it. Between attempts it waits with exponential, jittered backoff. A SQLite database that other writers
	// keep busy is waited for with such pauses for ClaimTimeout, however often that is. Default 10.
	MaxAttempts int
	// ResolveTimeout bounds how long a call whose COMMIT got no answer asks the database what became of it; then it fails
	// with ErrOutcomeUnknown. It also runs after the caller's context has ended, since the truth is worth more than
	// haste. Default 10 s.
	ResolveTimeout time.Duration
	// Cache says how many terminal aggregates are remembered, to answer repeats. The zero value remembers 10,000 for ten
	// minutes.
	Cache CacheConfig
	// Hot says when a key that is finalized again and again is reported. The zero value does at 30 losing calls a minute.
	Hot HotConfig
	// Group says how concurrent Settle calls are gathered. The zero value gathers those beyond sixteen at a time.
	Group GroupConfig
	// CompareEvents makes Receipt.Differs report other events too, where there is provenance, and not just of another
	// state. A Settle that is answered from the cache then computes its outcome's digest, which takes several times as long
	// as the rest.
	CompareEvents bool
	// Lock keeps triggers from preparing the same aggregate at the same time, in DoPrepared. The zero value has no lock.
	Lock LockConfig
	// Logger gets a line at error level for a callback that panics in a sweep, at warn level for what needs attention, and at debug
	// level for each call. Default slog.Default().
	Logger *slog.Logger
	// Trace are callbacks for metrics and traces.
	Trace *Trace

	guards guards // Guard's
}

// ErrConfig is returned by New, NewSQL, NewORM and NewSweeper for a configuration whose fields don't make sense; the message names the field.
var ErrConfig = errors.New("finalize: invalid configuration")

func (c *Config) withDefaults() (Config, error) {
	if c == nil {
		return Config{}, fmt.Errorf("%w: Config is nil; Aggregate and Guard are required", ErrConfig)
	}
	cfg := *c
	cfg.guards = guard.All(cfg.Guard).(guards)
	cfg.ClaimTimeout = cmp.Or(cfg.ClaimTimeout, 30*time.Second)
	cfg.IdleWarning = cmp.Or(cfg.IdleWarning, 10*time.Second)
	cfg.MaxAttempts = cmp.Or(cfg.MaxAttempts, 10)
	cfg.ResolveTimeout = cmp.Or(cfg.ResolveTimeout, 10*time.Second)
	cfg.Cache.Size = cmp.Or(cfg.Cache.Size, 10_000)
	cfg.Cache.MaxAge = cmp.Or(cfg.Cache.MaxAge, 10*time.Minute)
	cfg.Hot.Count = cmp.Or(cfg.Hot.Count, 30)
	cfg.Hot.Window = cmp.Or(cfg.Hot.Window, time.Minute)
	cfg.Lock.Timeout = cmp.Or(cfg.Lock.Timeout, time.Minute)
	cfg.Group.From = cmp.Or(cfg.Group.From, 16)
	cfg.Group.Max = cmp.Or(cfg.Group.Max, 256)
	cfg.Group.Writers = cmp.Or(cfg.Group.Writers, 2)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Trace == nil {
		cfg.Trace = &Trace{}
	}
	return cfg, cfg.validate()
}

func (c *Config) validate() error {
	fail := func(field, why string) error { return fmt.Errorf("%w: %s %s", ErrConfig, field, why) }
	if err := checkName(c.Aggregate); err != nil {
		return fail("Aggregate", err.Error())
	}
	if isnil.Any(c.Guard) {
		return fail("Guard", "is nil")
	}
	if v, ok := c.Guard.(guard.Validator); ok {
		if err := v.Validate(); err != nil {
			return fmt.Errorf("%w: Guard: %w", ErrConfig, err)
		}
	}
	if err := c.Outbox.Validate(); err != nil {
		return fmt.Errorf("%w: Outbox: %w", ErrConfig, err)
	}
	for _, f := range []struct {
		name    string
		value   int64
		instead string
	}{
		{"ClaimTimeout", int64(c.ClaimTimeout), ""},
		{"IdleWarning", int64(c.IdleWarning), ""},
		{"MaxAttempts", int64(c.MaxAttempts), ""},
		{"ResolveTimeout", int64(c.ResolveTimeout), ""},
		{"Cache.Size", int64(c.Cache.Size), "; to turn the cache off, set Cache.Off"},
		{"Cache.MaxAge", int64(c.Cache.MaxAge), ""},
		{"Hot.Count", int64(c.Hot.Count), ""},
		{"Hot.Window", int64(c.Hot.Window), ""},
		{"Lock.Timeout", int64(c.Lock.Timeout), ""},
		{"Group.Max", int64(c.Group.Max), "; to turn grouping off, set Group.Off"},
		{"Group.From", int64(c.Group.From), ""},
		{"Group.Writers", int64(c.Group.Writers), ""},
		{"Group.Wait", int64(c.Group.Wait), ""},
	} {
		if f.value < 0 {
			return fail(f.name, "is negative"+f.instead)
		}
	}
	if field, why := c.Lock.check(); field != "" {
		return fail("Lock."+field, why)
	}
	switch sqltx.Dialect(c.Dialect) {
	case "", sqltx.Postgres, sqltx.SQLite:
	default:
		return fail("Dialect", fmt.Sprintf("is %q; use postgres or sqlite", c.Dialect))
	}
	return nil
}

// Migrate creates the tables that the guard and the outbox need, unless they are there. It may be called at every start and
// by many processes at once.
func (f *Finalizer[Tx]) Migrate(ctx context.Context) error {
	return f.db.migrate(ctx, func(tx endstate.Tx) error {
		if m, ok := f.cfg.Guard.(guard.Migrator); ok {
			if err := m.Migrate(ctx, tx); err != nil {
				return err
			}
		}
		return f.cfg.Outbox.Migrate(ctx, tx)
	})
}

// Check says what the database lacks: each missing table, column and index, and what to do. Call it at start, before any
// trigger fires. The error wraps guard.ErrSchema or outbox.ErrSchema; nil means that all is there. A SQLite handle whose
// settings don't suit several writers is warned of in the log. A pooler that allows no transactions, as PgBouncer does in statement
// mode, is an error.
func (f *Finalizer[Tx]) Check(ctx context.Context) error {
	if err := f.db.transacts(ctx); err != nil {
		return fmt.Errorf("finalize: no transaction: %w", err)
	}
	return f.db.query(ctx, func(q endstate.Querier) error {
		var errs []error
		if c, ok := f.cfg.Guard.(guard.Checker); ok {
			errs = append(errs, c.Check(ctx, q))
		}
		if w, ok := f.db.(interface {
			warn(context.Context, endstate.Querier) error
		}); ok {
			errs = append(errs, w.warn(ctx, q))
		}
		return errors.Join(append(errs, f.cfg.Outbox.Check(ctx, q))...)
	})
}
