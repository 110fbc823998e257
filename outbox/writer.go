package outbox

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Validate says which field of w doesn't make sense.
func (w Writer) Validate() error {
	if w.Schema != "" {
		if err := sqltx.CheckIdent(w.Schema); err != nil {
			return fmt.Errorf("%w: Writer.Schema %w", ErrConfig, err)
		}
	}
	if err := sqltx.CheckIdent(w.Name()); err != nil {
		return fmt.Errorf("%w: Writer.Table %w", ErrConfig, err)
	}
	if n := len(w.Name()); n > maxTable {
		return fmt.Errorf("%w: Writer.Table is %d bytes long, the limit is %d, so that the names of its indexes and companions fit into 63", ErrConfig, n, maxTable)
	}
	if w.MaxPayload < 0 || w.MaxPayload > maxMaxPayload {
		return fmt.Errorf("%w: Writer.MaxPayload is %d; the database takes %d", ErrConfig, w.MaxPayload, maxMaxPayload)
	}
	if w.Columns != nil {
		if w.Headers != nil && w.Columns.Headers == "" {
			return fmt.Errorf("%w: Writer.Headers is set, but Writer.Columns.Headers names no column for what it adds", ErrConfig)
		}
		return w.Columns.validate()
	}
	return nil
}

// maxTable leaves room for "_parked_waiting" in PostgreSQL's 63 bytes, beyond which it cuts names off.
const maxTable = 48

// maxMaxPayload is what every driver and PostgreSQL can send and receive, as text of twice the length too.
const maxMaxPayload = 256 << 20

// companions are what is named after the outbox's table: the relay's tables, and the function that computes partitions.
var companions = []string{"_subscriptions", "_cursors", "_parked", "_relays", "_samples", "_incarnation", "_audit", "_partition"}

// Name is the table's name, without its schema.
func (w Writer) Name() string {
	if w.Table == "" {
		return DefaultTable
	}
	return w.Table
}

func (w Writer) table() string { return sqltx.Quote(w.Schema, w.Name()) }

// sql writes the statements that insert into the table.
func (w Writer) sql() sqlplan.Outbox {
	return sqlplan.Outbox{Table: w.table(), Columns: (*sqlplan.Columns)(w.Columns)}
}

// rows are prepared events as statements take them.
func rows(events []Event) []sqlplan.Event {
	list := make([]sqlplan.Event, len(events))
	for i, e := range events {
		list[i] = sqlplan.Event(e)
	}
	return list
}

// Holders returns, for each event, the id of the event in the table that holds its dedup key or its id; uuid.Nil where
// there is none.
func (w Writer) Holders(ctx context.Context, q endstate.Querier, events []Event) ([]uuid.UUID, error) {
	if w.Columns != nil {
		holders, err := w.mappedHolders(ctx, q, events)
		if err != nil {
			return nil, fmt.Errorf("outbox: look up earlier events: %w", err)
		}
		return holders, nil
	}
	var args []any
	param := func(v any, cast string) string {
		args = append(args, v)
		if sqltx.Of(q) == sqltx.SQLite {
			return "?" // see values
		}
		return fmt.Sprintf("$%d::%s", len(args), cast)
	}
	var keys, ids []string
	for _, e := range events {
		ids = append(ids, param(e.ID.String(), "uuid"))
	}
	for _, e := range events {
		if e.DedupKey != "" {
			keys = append(keys, param(e.DedupKey, "text"))
		}
	}
	query := fmt.Sprintf("SELECT CAST(id AS text), coalesce(dedup_key, '') FROM %s WHERE id IN (%s)", w.table(), strings.Join(ids, ", "))
	if len(keys) > 0 {
		query += fmt.Sprintf(" OR dedup_key IN (%s)", strings.Join(keys, ", "))
	}
	byKey, byID := map[string]uuid.UUID{}, map[uuid.UUID]uuid.UUID{}
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("outbox: look up earlier events: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var text, key string
		if err := rows.Scan(&text, &key); err != nil {
			return nil, fmt.Errorf("outbox: look up earlier events: %w", err)
		}
		id, err := uuid.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("outbox: look up earlier events: %w", err)
		}
		byID[id] = id
		if key != "" {
			byKey[key] = id
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("outbox: look up earlier events: %w", err)
	}
	holders := make([]uuid.UUID, len(events))
	for i, e := range events {
		holders[i] = byID[e.ID]
		if id, ok := byKey[e.DedupKey]; ok && e.DedupKey != "" {
			holders[i] = id
		}
	}
	return holders, nil
}

// Taken reports whether err says that an event's dedup key or id is held by another event.
func Taken(err error) bool { return sqltx.Unique(err) }

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
// fits the library's. relay.Check is for those who publish.
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
