package guard

import (
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

// Migrations returns this ledger's migrations, with its own name and schema, in goose's format: the files for dialect
// "postgres" or "sqlite". Package migrations has them together with those of the outbox and the inbox, and for other tools.
func (l Ledger) Migrations(dialect string) (fs.FS, error) {
	dir, err := fs.Sub(migrations, "migrations/"+dialect)
	if err == nil {
		_, err = fs.Stat(dir, ".")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: no migrations for dialect %q; there are postgres and sqlite", ErrConfig, dialect)
	}
	return migrate.Rename(dir, sqltx.Dialect(dialect), DefaultLedger, l.Schema, l.plain()), nil
}

// Migrate creates the ledger's table, and its schema, unless they are there, whoever made them; then it writes nothing, and
// needs no right to. It may be called at every start and by many processes at once, which take turns; on SQLite a caller that
// finds the database busy must run the transaction again. Nothing is done before tx commits.
func (l Ledger) Migrate(ctx context.Context, tx endstate.Tx) error {
	if err := l.Validate(); err != nil {
		return err
	}
	files, err := l.Migrations(string(sqltx.Of(tx)))
	if err != nil {
		return err
	}
	if err := migrate.Run(ctx, tx, l.Schema, l.plain(), files); err != nil {
		return fmt.Errorf("guard: migrate %s: %w", l.name(), err)
	}
	return nil
}

// Migrator is what a Guard may implement to create tables of its own.
type Migrator interface {
	Migrate(ctx context.Context, tx endstate.Tx) error
}

// Migrate migrates each guard that has tables.
func (g all) Migrate(ctx context.Context, tx endstate.Tx) error {
	for _, guard := range g {
		if m, ok := guard.(Migrator); ok {
			if err := m.Migrate(ctx, tx); err != nil {
				return err
			}
		}
	}
	return nil
}
