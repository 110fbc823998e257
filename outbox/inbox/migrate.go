package inbox

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
)

//go:embed migrations
var migrations embed.FS

// Migrations returns the migrations of an inbox with the default name, in goose's format: the files for dialect "postgres"
// or "sqlite". Their version numbers don't meet those of guard and outbox, so all may go into one folder.
func Migrations(dialect string) (fs.FS, error) {
	dir, err := fs.Sub(migrations, "migrations/"+dialect)
	if err == nil {
		_, err = fs.Stat(dir, ".")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: no migrations for dialect %q; there are postgres and sqlite", ErrConfig, dialect)
	}
	return dir, nil
}

// Migrate creates the inbox's table, and its schema, unless they are there. It may be called at every start and by many
// processes at once. All consumers may share one table.
func (t *Table[Tx]) Migrate(ctx context.Context) error {
	files, err := Migrations(string(t.sql.dialect))
	if err != nil {
		return err
	}
	files = migrate.Rename(files, t.sql.dialect, DefaultTable, t.cfg.Schema, t.cfg.Table)
	// At its start a service can't wait for another delivery, as its handlers can.
	err = t.retry(ctx, 10*maxRuns, func() error {
		return t.db.migrate(ctx, func(tx endstate.Tx) error { return migrate.Run(ctx, tx, t.cfg.Schema, t.sql.table, files) })
	})
	if err != nil {
		return fmt.Errorf("inbox: migrate %s: %w", t.sql.table, err)
	}
	return nil
}

// Check says what the database lacks: the table, a column, or the unique indexes without which an event could be handled
// twice.
func (t *Table[Tx]) Check(ctx context.Context) error {
	q := t.db.querier()
	err := migrate.Missing(ctx, q, t.cfg.Schema, t.cfg.Table,
		[]string{"consumer", "key", "event_id", "digest", "state", "attempts", "at", "result", "event", "error"})
	if err == nil {
		var unique bool
		if unique, err = migrate.HasUnique(ctx, q, t.cfg.Schema, t.cfg.Table, []string{"consumer", "key"}); err == nil && !unique {
			err = errors.New("table " + t.sql.table + " has no unique index on (consumer, key)")
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w; apply inbox's migration 00201_inbox (Table.Migrate does)", ErrSchema, err)
	}
	return nil
}
