package outbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Columns lets a Writer write into a table of a service's own on PostgreSQL, such as one that package adopt has adopted: which
// of its columns each field of an event goes into. A field whose column is empty is left out; ID, AggregateID, Type and
// Payload are required.
//
// The table's own unique index deduplicates there: over DedupKey if that is mapped and has one, or over the aggregate and the
// type, so that an aggregate has one event of a type whatever its dedup key says. The service's own relay publishes from the
// table: Relay and Admin refuse it.
type Columns struct {
	ID            string // uuid, or text of 36 characters
	AggregateType string
	AggregateID   string
	Type          string
	Payload       string
	ContentType   string
	Headers       string // jsonb, json or text
	OccurredAt    string // timestamptz, or as OccurredAtType says
	DedupKey      string
	SchemaVersion string

	// PayloadType is the payload column's type: "bytea" (the default), "text", "json" or "jsonb". But for bytea the payload
	// must be text in UTF-8, and jsonb doesn't keep its bytes.
	PayloadType string
	// OccurredAtType is the type of the column OccurredAt: "timestamptz" (the default), or "timestamp", which has no time zone and
	// gets UTC.
	OccurredAtType string
	// Set are further columns, each with a value's text, such as a topic that may not be NULL.
	Set map[string]string
}

// fields are those that are mapped.
func (c *Columns) fields() []sqlplan.Field { return (*sqlplan.Columns)(c).Fields() }

func (c *Columns) validate() error {
	for name, column := range map[string]string{"ID": c.ID, "AggregateID": c.AggregateID, "Type": c.Type, "Payload": c.Payload} {
		if column == "" {
			return fmt.Errorf("%w: Writer.Columns.%s is empty", ErrConfig, name)
		}
	}
	switch c.PayloadType {
	case "", "bytea", "text", "json", "jsonb":
	default:
		return fmt.Errorf("%w: Writer.Columns.PayloadType is %q; use bytea, text, json or jsonb", ErrConfig, c.PayloadType)
	}
	switch c.OccurredAtType {
	case "", "timestamptz", "timestamp":
	default:
		return fmt.Errorf("%w: Writer.Columns.OccurredAtType is %q; use timestamptz or timestamp", ErrConfig, c.OccurredAtType)
	}
	var names []string
	for _, f := range c.fields() {
		names = append(names, f.Theirs)
	}
	names = append(names, slices.Sorted(maps.Keys(c.Set))...)
	for i, name := range names {
		if err := sqltx.CheckIdent(name); err != nil {
			return fmt.Errorf("%w: Writer.Columns: %q %w", ErrConfig, name, err)
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("%w: Writer.Columns names %q twice", ErrConfig, name)
		}
	}
	for name, value := range c.Set {
		if err := sqltx.CheckText(value); err != nil {
			return fmt.Errorf("%w: Writer.Columns.Set[%q] %w", ErrConfig, name, err)
		}
	}
	return nil
}

func (c *Columns) occurredAtType() string {
	if c.OccurredAtType == "" {
		return "timestamptz"
	}
	return c.OccurredAtType
}

// checkMapped is Check on a service's own table: it has the columns, of types that take an event, and a unique index that keeps a
// second event out.
func (w Writer) checkMapped(ctx context.Context, q endstate.Querier) error {
	if sqltx.Of(q) == sqltx.SQLite {
		return fmt.Errorf("%w: Writer.Columns is for PostgreSQL", ErrConfig)
	}
	c := w.Columns
	var names []string
	for _, f := range c.fields() {
		names = append(names, f.Theirs)
	}
	names = append(names, slices.Sorted(maps.Keys(c.Set))...)
	err := migrate.Missing(ctx, q, w.Schema, w.Name(), names)
	found := false
	for _, unique := range [][]string{{c.DedupKey}, {c.AggregateType, c.AggregateID, c.Type}} {
		if err == nil && !found {
			found, err = migrate.HasUnique(ctx, q, w.Schema, w.Name(), unique)
		}
	}
	if err == nil && !found {
		err = errors.New("table " + w.table() + " has no unique index over all of its rows on the aggregate and the type, nor on the dedup key; endstate adopt makes one")
	}
	if err == nil {
		// Reading is for telling who holds a key.
		reads := slices.DeleteFunc([]string{c.ID, c.AggregateType, c.AggregateID, c.Type, c.DedupKey}, func(name string) bool { return name == "" })
		var denied []error
		denied, err = migrate.Denied(ctx, q, w.Schema, migrate.Need{Table: w.Name(), Select: reads, Insert: names}, nil)
		err = errors.Join(append(denied, err)...)
	}
	if err == nil {
		err = w.checkPut(ctx, q)
	}
	if err != nil {
		err = fmt.Errorf("%w (this table is the service's own)", err)
	}
	return sqltx.Lacking(ErrSchema, err)
}
