package adopt

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/endstate-go/endstate/internal/published"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox/audit"
)

// Errors that callers decide on. They arrive wrapped.
var (
	// ErrConfig is returned for a Config whose fields don't make sense, or that isn't the one that an adoption of the same
	// table was begun with.
	ErrConfig = errors.New("adopt: invalid configuration")

	// ErrSchema is returned when a table can't be adopted: it or a column isn't there, it is partitioned or inherited from, what
	// is published can't be told, or a foreign key would have more deleted or changed than the duplicates.
	ErrSchema = errors.New("adopt: the table can't be adopted")

	// ErrNothing is returned by Undo when the table was not adopted.
	ErrNothing = errors.New("adopt: there is nothing to undo")
)

// Config says which table to adopt. The zero Config is for the table event_outbox.
type Config struct {
	Schema string // the table's schema; empty: the connection's search path
	Table  string // default "event_outbox"
	// Aggregate are the columns that together tell aggregates apart. Default "aggregate_id".
	Aggregate []string
	Type      string // the column of the event's type; default "event_type"
	Time      string // the column of the time when the event was written; default "created_at"
	// Published says which events were published, as audit.Config.Published does: a column whose type says so, or a condition
	// such as "status = SENT". What can't be judged is refused, since of two duplicates the published one has to stay; so is a
	// condition that no row of the table meets, which may well be misspelt. Default "published_at".
	Published string
	// NoPublished says that the table has no such column, or that nothing in it was published yet.
	NoPublished bool
	// EventTypes limits the adoption, and with it the index, to types that match one of these patterns of SQL's LIKE. Empty:
	// all types.
	EventTypes []string

	// Add are columns to add unless they are there, such as those that outbox.Writer is to fill. They must be nullable or
	// have a constant default, so that adding them rewrites nothing.
	Add []Column
	// Batch is how many aggregates lose their duplicates in one transaction. Default 500.
	Batch int
	// LockTimeout bounds how long writers may have to wait for a step. Default 2 s.
	LockTimeout time.Duration
	// Logger gets a line for each step at info level. Default slog.Default().
	Logger *slog.Logger
	// Progress is called, on the caller's goroutine, at the beginning of each step, and within the longer ones. Optional.
	Progress func(step string, done int64)
	// Show is how many aggregates Plan lists with what stays of each. Default 20; below zero: none.
	Show int
}

// Column is a column to add.
type Column struct {
	Name string
	Type string // in SQL, with its default if it has one: it is put into the statement as it is
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
	if c.NoPublished {
		c.Published = ""
	}
	if c.Batch == 0 {
		c.Batch = 500
	}
	if c.LockTimeout == 0 {
		c.LockTimeout = 2 * time.Second
	}
	if c.Show == 0 {
		c.Show = 20
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Progress == nil {
		c.Progress = func(string, int64) {}
	}
	return c
}

func (c Config) validate() error {
	for _, column := range c.Add {
		if err := sqltx.CheckIdent(column.Name); err != nil {
			return fmt.Errorf("%w: Add: Name %w", ErrConfig, err)
		}
		if column.Type == "" {
			return fmt.Errorf("%w: Add: column %q has no Type", ErrConfig, column.Name)
		}
	}
	if c.Published != "" {
		if _, err := published.Parse(c.Published); err != nil {
			return fmt.Errorf("%w: Published %w", ErrConfig, err)
		}
	}
	if c.Batch < 0 || c.Batch > 100_000 {
		return fmt.Errorf("%w: Batch is %d", ErrConfig, c.Batch)
	}
	if c.LockTimeout < time.Millisecond {
		return fmt.Errorf("%w: LockTimeout is %v", ErrConfig, c.LockTimeout)
	}
	return nil
}

// audit is the configuration that counts what is going to be removed. It also checks the names.
func (c Config) audit() audit.Config {
	return audit.Config{Schema: c.Schema, Table: c.Table, Aggregate: c.Aggregate, Type: c.Type, Time: c.Time, Published: c.Published,
		NoPublished: c.NoPublished, EventTypes: c.EventTypes}
}
