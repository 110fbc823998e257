package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/published"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Errors that callers decide on. They arrive wrapped.
var (
	// ErrConfig is returned for a Config whose fields don't make sense; the message names the field.
	ErrConfig = errors.New("audit: invalid configuration")

	// ErrSchema is returned when there is no such table or column, or when a column can't say what it is asked for; the message
	// names it.
	ErrSchema = errors.New("audit: the table can't be audited")

	// ErrTimeout is returned when the audit took longer than Config.Timeout.
	ErrTimeout = errors.New("audit: took longer than its timeout")
)

// Config says which table to look at, and what for. The zero Config looks for events of all types in the table event_outbox.
type Config struct {
	Schema string // the table's schema; empty: the connection's search path
	Table  string // default "event_outbox"
	// Aggregate are the columns that together tell aggregates apart. Default "aggregate_id".
	Aggregate []string
	Type      string // the column of the event's type; default "event_type"
	Time      string // the column of the time when the event was written; default "created_at"
	// Published says which events were published. A column alone is judged by its type: a boolean that is true, or a time that
	// is NULL until then. Of any other (a status, a number, a time that is never NULL) say what a published event has in it, as
	// in SQL: "status = SENT", "state <> 0", "status IN ('SENT', 'ACKED')", "status NOT IN (NEW)", "sent IS NOT NULL"; names
	// and values that have others than letters and digits in them go in "…" and '…'. Default "published_at".
	Published string
	// NoPublished says that the table has no such column.
	NoPublished bool

	// EventTypes limits the audit to types that match one of these patterns of SQL's LIKE, which is case-sensitive here on
	// both databases: % is any text, _ any character, a backslash takes the next one literally. Empty: all types.
	EventTypes []string
	// Since and Until limit the audit to events from Since on, and before Until. Zero: no limit.
	Since, Until time.Time
	// Window is how near two events of one aggregate are that overlapping triggers have written. Default 5 minutes.
	Window time.Duration
	// Top is how many of the worst aggregates are reported. Default 10; below zero: none.
	Top int
	// Timeout bounds the audit. Default 10 minutes.
	Timeout time.Duration
	// Progress is called, on the caller's goroutine, before each step with the number of those that are done and of all, and
	// once more at the end. Optional.
	Progress func(done, of int, next string)
}

func (c Config) withDefaults() Config {
	for _, f := range []struct {
		field    *string
		fallback string
	}{{&c.Table, "event_outbox"}, {&c.Type, "event_type"}, {&c.Time, "created_at"}, {&c.Published, "published_at"}} {
		if *f.field == "" {
			*f.field = f.fallback
		}
	}
	if len(c.Aggregate) == 0 {
		c.Aggregate = []string{"aggregate_id"}
	}
	if c.Window == 0 {
		c.Window = 5 * time.Minute
	}
	if c.Top == 0 {
		c.Top = 10
	}
	c.Top = max(c.Top, 0)
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Minute
	}
	if c.NoPublished {
		c.Published = ""
	}
	if c.Progress == nil {
		c.Progress = func(int, int, string) {}
	}
	return c
}

// validate says which field of c, which has its defaults, doesn't make sense.
func (c Config) validate() error {
	names := []struct{ field, name string }{{"Table", c.Table}, {"Type", c.Type}, {"Time", c.Time}}
	for _, column := range c.Aggregate {
		names = append(names, struct{ field, name string }{"Aggregate", column})
	}
	if c.Schema != "" {
		names = append(names, struct{ field, name string }{"Schema", c.Schema})
	}
	for _, n := range names {
		if err := sqltx.CheckIdent(n.name); err != nil {
			return fmt.Errorf("%w: %s %w", ErrConfig, n.field, err)
		}
	}
	if c.Published != "" {
		if _, err := published.Parse(c.Published); err != nil {
			return fmt.Errorf("%w: Published %w", ErrConfig, err)
		}
	}
	for _, pattern := range c.EventTypes {
		if err := sqltx.CheckText(pattern); err != nil {
			return fmt.Errorf("%w: EventTypes: %q %w", ErrConfig, pattern, err)
		}
		if trailing := len(pattern) - len(strings.TrimRight(pattern, `\`)); trailing%2 == 1 {
			return fmt.Errorf(`%w: EventTypes: %q ends with a backslash that takes nothing literally`, ErrConfig, pattern)
		}
	}
	if !c.Until.IsZero() && !c.Since.Before(c.Until) {
		return fmt.Errorf("%w: Until is not after Since", ErrConfig)
	}
	if c.Window < 0 {
		return fmt.Errorf("%w: Window is negative", ErrConfig)
	}
	if c.Timeout < 0 {
		return fmt.Errorf("%w: Timeout is negative", ErrConfig)
	}
	return nil
}

// PublishedColumn returns the column that a Config.Published is about, or ErrConfig.
func PublishedColumn(condition string) (string, error) {
	c, err := published.Parse(condition)
	if err != nil {
		return "", fmt.Errorf("%w: Published %w", ErrConfig, err)
	}
	return c.Column, nil
}

// Run audits a table on PostgreSQL. It works on a standby, too.
func Run(ctx context.Context, pool *pgxpool.Pool, cfg Config) (*Report, error) {
	return run(ctx, cfg, func(ctx context.Context) (endstate.Tx, error) {
		if pool == nil {
			return nil, fmt.Errorf("%w: pool is nil", ErrConfig)
		}
		return pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	})
}

// RunSQL audits a table on SQLite, or on PostgreSQL through database/sql.
func RunSQL(ctx context.Context, db *sql.DB, cfg Config) (*Report, error) {
	if db == nil {
		return nil, fmt.Errorf("%w: db is nil", ErrConfig)
	}
	dialect, err := sqltx.Choose(db, "")
	if err != nil {
		return nil, fmt.Errorf("%w: driver %T is unknown; use one for SQLite, or PostgreSQL's pgx or lib/pq", ErrConfig, db.Driver())
	}
	opts := &sql.TxOptions{ReadOnly: true}
	if dialect == sqltx.Postgres {
		opts.Isolation = sql.LevelRepeatableRead
	}
	return run(ctx, cfg, func(ctx context.Context) (endstate.Tx, error) {
		tx, err := db.BeginTx(ctx, opts)
		if err != nil {
			return nil, err
		}
		return sqltx.Wrap(tx, dialect), nil
	})
}

func run(ctx context.Context, cfg Config, begin func(context.Context) (endstate.Tx, error)) (*Report, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Timeout, ErrTimeout)
	defer cancel()
	report, err := snapshot(ctx, cfg, begin)
	switch {
	case err == nil:
		return report, nil
	case errors.Is(context.Cause(ctx), ErrTimeout):
		return nil, fmt.Errorf("%w of %v", ErrTimeout, cfg.Timeout)
	case errors.Is(err, ErrSchema):
		return nil, err
	}
	return nil, fmt.Errorf("audit: %s: %w", sqltx.Quote(cfg.Schema, cfg.Table), err)
}

// snapshot counts in a transaction of its own.
func snapshot(ctx context.Context, cfg Config, begin func(context.Context) (endstate.Tx, error)) (*Report, error) {
	tx, err := begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = tx.Rollback(ctx) // it has only read
	}()
	return count(ctx, tx, cfg)
}

// count reads the figures.
func count(ctx context.Context, tx endstate.Tx, cfg Config) (*Report, error) {
	if sqltx.Of(tx) == sqltx.Postgres {
		for _, set := range []string{
			// The context ends first; this is for a client that is gone.
			fmt.Sprintf("SET LOCAL statement_timeout = %d", (cfg.Timeout + 5*time.Second).Milliseconds()),
			"SET LOCAL lock_timeout = '10s'", // behind an ALTER TABLE we would hold up the writers that come after us
			"SET LOCAL work_mem = '64MB'",
			"SET LOCAL jit = off",
			"SET LOCAL TimeZone = 'UTC'",
		} {
			if _, err := tx.Exec(ctx, set); err != nil {
				return nil, err
			}
		}
	}
	const steps = 3
	cfg.Progress(0, steps, "looking at the columns")
	columns := append([]string{cfg.Type, cfg.Time}, cfg.Aggregate...)
	if cfg.Published != "" {
		column, err := PublishedColumn(cfg.Published)
		if err != nil {
			return nil, err
		}
		columns = append(columns, column)
	}
	if err := migrate.Missing(ctx, tx, cfg.Schema, cfg.Table, columns); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSchema, err)
	}
	source, err := newSource(ctx, tx, cfg)
	if err != nil {
		return nil, err
	}
	cfg.Progress(1, steps, "counting events")
	report := &Report{Window: cfg.Window, Worst: []Aggregate{}}
	query, args := source.totals()
	if err := tx.QueryRow(ctx, query, args...).Scan(&report.Events, &report.NullKeys, &report.NullTimes, &report.PublishedEvents); err != nil {
		return nil, err
	}
	cfg.Progress(2, steps, "looking for duplicates")
	if err := source.readDuplicates(ctx, tx, report); err != nil {
		return nil, err
	}
	report.complete()
	cfg.Progress(steps, steps, "")
	return report, nil
}
