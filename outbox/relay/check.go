package relay

import (
	"context"
	"fmt"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// Check says what the database lacks for a relay: a table, a column or its type, an index, a privilege of the current role, or
// a schema version that fits the library's; and what of it would lose events (see the package's documentation), such as a
// sequence that caches numbers. outbox.Writer.Check is for those who only put events.
func Check(ctx context.Context, q endstate.Querier, w outbox.Writer) error {
	if w.Columns != nil {
		return fmt.Errorf("%w: Writer.Columns is set: the table is the service's own, and so is what publishes from it", outbox.ErrConfig)
	}
	all := migrate.All
	needs := []migrate.Need{
		{Table: w.Name(), Select: all, Delete: true, Sequence: "seq"},
		{Table: w.Name() + "_subscriptions", Select: all, Insert: all, Update: all},
		{Table: w.Name() + "_cursors", Select: all, Insert: all, Update: all},
		{Table: w.Name() + "_parked", Select: all, Insert: all, Update: all, Delete: true},
		{Table: w.Name() + "_relays", Select: all, Insert: all, Update: all, Delete: true},
		{Table: w.Name() + "_samples", Select: all, Insert: all, Delete: true},
	}
	if sqltx.Of(q) == sqltx.Postgres {
		needs = append(needs, migrate.Need{Table: w.Name() + "_incarnation", Select: all, Insert: all, Update: all})
	}
	files, err := w.Migrations(string(sqltx.Of(q)))
	if err == nil {
		err = migrate.Check(ctx, q, w.Schema, w.Name(), files, needs...)
	}
	if err == nil && sqltx.Of(q) == sqltx.Postgres {
		err = checkGround(ctx, q, w)
	}
	return sqltx.Lacking(outbox.ErrSchema, err)
}
