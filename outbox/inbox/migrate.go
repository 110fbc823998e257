package inbox

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

//go:embed migrations
var migrations embed.FS

// Migrations returns the migrations of this inbox, with its own name and schema; other fields don't matter. They are in
// goose's format: the files for dialect "postgres" or "sqlite". Package migrations has them together with those of the ledger
// and the outbox, and for other tools.
func (c TableConfig) Migrations(dialect string) (fs.FS, error) {
	dir, err := fs.Sub(migrations, "migrations/"+dialect)
	if err == nil {
		_, err = fs.Stat(dir, ".")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: no migrations for dialect %q; there are postgres and sqlite", ErrConfig, dialect)
	}
	return migrate.Rename(dir, sqltx.Dialect(dialect), DefaultTable, c.Schema, c.name()), nil
}

func (c TableConfig) name() string { return cmp.Or(c.Table, DefaultTable) }

// Migrate creates the inbox's table, and its schema, unless they are there, whoever made them; then it writes nothing, and
// needs no right to. Other fields than Schema and Table don't matter. On SQLite a caller that finds the database busy must
// run the transaction again; Table.Migrate does. All consumers may share one table.
func (c TableConfig) Migrate(ctx context.Context, tx endstate.Tx) error {
	for name, value := range map[string]string{"Schema": cmp.Or(c.Schema, c.name()), "Table": c.name()} {
		if err := sqltx.CheckIdent(value); err != nil {
			return fmt.Errorf("%w: TableConfig.%s %w", ErrConfig, name, err)
		}
	}
	files, err := c.Migrations(string(sqltx.Of(tx)))
	if err == nil {
		err = migrate.Run(ctx, tx, c.Schema, c.name(), files)
	}
	if err != nil {
		return fmt.Errorf("inbox: migrate %s: %w", sqltx.Quote(c.Schema, c.name()), err)
	}
	return nil
}

// Migrate creates the inbox's table as TableConfig.Migrate does, in a transaction of its own. It may be called at every start
// and by many processes at once.
func (t *Table[Tx]) Migrate(ctx context.Context) error {
	// At its start a service can't wait for another delivery, as its handlers can.
	return t.retry(ctx, 10*maxRuns, func() error {
		return t.db.migrate(ctx, func(tx endstate.Tx) error { return t.cfg.Migrate(ctx, tx) })
	})
}

// Check says what the database lacks: the table, a column or its type, the unique indexes without which an event could be
// handled twice, a privilege of the current role, or a schema version that fits the library's. The error wraps
// ErrSchema.
func (t *Table[Tx]) Check(ctx context.Context) error {
	files, err := t.cfg.Migrations(string(t.sql.dialect))
	if err == nil {
		err = migrate.Check(ctx, t.db.querier(), t.cfg.Schema, t.cfg.name(), files,
			migrate.Need{Table: t.cfg.name(), Select: migrate.All, Insert: migrate.All, Update: migrate.All, Delete: true})
	}
	return sqltx.Lacking(ErrSchema, err)
}
