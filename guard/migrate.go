package guard

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

//go:embed migrations
var migrations embed.FS

// Migrations returns the migrations of a ledger with the default name, in goose's format: the files for dialect "postgres"
// or "sqlite". Package migrations has them together with those of the outbox and the inbox, and for other tools.
func Migrations(dialect string) (fs.FS, error) { return Ledger{}.Migrations(dialect) }

// Migrations returns this ledger's migrations, with its own name and schema.
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

// Check implements Checker: the table must exist, with its columns, their types and its primary key; the current role must
// be allowed to read and to insert; and the schema's version must fit the library's.
func (l Ledger) Check(ctx context.Context, q endstate.Querier) error {
	files, err := l.Migrations(string(sqltx.Of(q)))
	if err == nil {
		err = migrate.Check(ctx, q, l.Schema, l.plain(), files, migrate.Need{Table: l.plain(), Select: migrate.All, Insert: migrate.All})
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSchema, err)
	}
	return nil
}

// Check implements Checker: the table and columns must exist, and the key columns must have a unique index, else one key
// could be several rows.
func (s Status) Check(ctx context.Context, q endstate.Querier) error {
	columns := append(slices.Clone(s.keys()), s.Column)
	if s.Touched != "" {
		columns = append(columns, s.Touched)
	}
	for column := range s.Set {
		columns = append(columns, column)
	}
	err := migrate.Missing(ctx, q, s.Schema, s.Table, columns)
	if err == nil {
		var unique bool
		if unique, err = migrate.HasUnique(ctx, q, s.Schema, s.Table, s.keys()); err == nil && !unique {
			err = errors.New("table " + s.table() + " has no unique index over its key columns alone, so one key could be several rows")
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w (this table is the service's own)", ErrSchema, err)
	}
	return nil
}
