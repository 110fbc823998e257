package outbox

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

//go:embed migrations
var migrations embed.FS

// Migrations returns the migrations of an outbox with the default name, in goose's format: the files for dialect
// "postgres" or "sqlite". Package migrations has them together with those of the ledger and the inbox, and for other tools.
func Migrations(dialect string) (fs.FS, error) { return Writer{}.Migrations(dialect) }

// Migrations returns this outbox's migrations, with its own name and schema.
func (w Writer) Migrations(dialect string) (fs.FS, error) {
	dir, err := fs.Sub(migrations, "migrations/"+dialect)
	if err == nil {
		_, err = fs.Stat(dir, ".")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: no migrations for dialect %q; there are postgres and sqlite", ErrConfig, dialect)
	}
	return migrate.Rename(dir, sqltx.Dialect(dialect), DefaultTable, w.Schema, w.Name(), companions...), nil
}

// Migrate creates the outbox's tables, and their schema, unless they are there, whoever made them; then it writes nothing, and
// needs no right to. It may be called at every start and by many processes at once, which take turns; on SQLite a caller that
// finds the database busy must run the transaction again. Nothing is done before tx commits, nor at all to a table of the service's own (Columns).
func (w Writer) Migrate(ctx context.Context, tx endstate.Tx) error {
	if err := w.Validate(); err != nil || w.Columns != nil {
		return err
	}
	files, err := w.Migrations(string(sqltx.Of(tx)))
	if err != nil {
		return err
	}
	if err := migrate.Run(ctx, tx, w.Schema, w.Name(), files); err != nil {
		return fmt.Errorf("outbox: migrate %s: %w", w.table(), err)
	}
	return nil
}

// Check says what the database lacks for those who put events: the table, a column or its type, an index (that over dedup_key
// must be over all rows: one limited to some stops deduplicating), a privilege of the current role, or a schema version that
// fits the library's. The error wraps ErrSchema. relay.Check is for those who publish.
func (w Writer) Check(ctx context.Context, q endstate.Querier) error {
	if w.Columns != nil {
		return w.checkMapped(ctx, q)
	}
	files, err := w.Migrations(string(sqltx.Of(q)))
	if err == nil {
		inserts := strings.Split(strings.Trim(sqlplan.InsertColumns, "()"), ", ")
		err = migrate.Check(ctx, q, w.Schema, w.Name(), files, migrate.Need{Table: w.Name(), Select: []string{"id", "dedup_key"}, Insert: inserts})
	}
	return sqltx.Lacking(ErrSchema, err)
}
