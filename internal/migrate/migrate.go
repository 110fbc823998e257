// Package migrate applies a package's embedded migrations. The files are in goose's format and valid SQL for the default
// table names; other names are put in as the files are read, so that one file serves both goose and Run.
package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Table records which migrations were applied to which table.
const Table = "endstate_migrations"

// lockKey is the advisory lock under which migrations run: ten processes that start at once take turns.
const lockKey = 0x656e64737461_01

// Run applies the migrations in fsys that target, a table's quoted and qualified name, hasn't had, in tx. It creates the
// schema if that is named and absent. The caller commits.
func Run(ctx context.Context, tx endstate.Tx, schema, target string, fsys fs.FS) error {
	log := sqltx.Quote(schema, Table)
	now, param := "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')", "?"
	if sqltx.Of(tx) == sqltx.Postgres {
		now, param = "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')", "$"
		if err := prepare(ctx, tx, schema); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (target text NOT NULL, version bigint NOT NULL, applied_at text NOT NULL, PRIMARY KEY (target, version))`, log)); err != nil {
		return fmt.Errorf("create %s: %w", log, err)
	}
	if sqltx.Of(tx) == sqltx.SQLite {
		// Wait for other writers before reading what they did.
		if _, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET version = version WHERE 0", log)); err != nil {
			return err
		}
	}
	names, err := fs.Glob(fsys, "*.sql")
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return fmt.Errorf("migration %s: its name has no version: %w", name, err)
		}
		tag, err := tx.Exec(ctx, fmt.Sprintf(`INSERT INTO %s (target, version, applied_at) VALUES (%s1, %s2, %s) ON CONFLICT DO NOTHING`, log, param, param, now), target, version)
		if err != nil {
			return fmt.Errorf("migration %s: %w", name, err)
		}
		if tag.RowsAffected() == 0 {
			continue
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		for _, statement := range Up(string(text)) {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return fmt.Errorf("migration %s of %s: %w", name, target, err)
			}
		}
	}
	return nil
}

// Lock waits until no other transaction migrates; PostgreSQL only.
func Lock(ctx context.Context, tx endstate.Tx) error {
	_, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock("+strconv.Itoa(lockKey)+")")
	return err
}

func prepare(ctx context.Context, tx endstate.Tx, schema string) error {
	if err := Lock(ctx, tx); err != nil {
		return err
	}
	if schema == "" {
		return nil
	}
	var exists bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1::text)", schema).Scan(&exists); err != nil {
		return err
	}
	if exists {
		return nil
	}
	if _, err := tx.Exec(ctx, "CREATE SCHEMA "+sqltx.Quote("", schema)); err != nil {
		return fmt.Errorf("create schema %s: %w", schema, err)
	}
	return nil
}

// Up returns the statements of a file's Up half. Every statement stands between goose's StatementBegin and StatementEnd.
func Up(text string) []string {
	text, _, _ = strings.Cut(text, "-- +goose Down")
	var statements []string
	for {
		_, rest, found := strings.Cut(text, "-- +goose StatementBegin\n")
		if !found {
			return statements
		}
		statement, after, _ := strings.Cut(rest, "-- +goose StatementEnd")
		statements = append(statements, statement)
		text = after
	}
}

// Rename returns fsys with a default table's name replaced by that of another table, in the names of its indexes too, and
// in those of its companions: tables whose names are the table's with a suffix.
func Rename(fsys fs.FS, d sqltx.Dialect, from, schema, to string, companions ...string) fs.FS {
	var pairs []string
	for _, suffix := range companions {
		pairs = append(pairs, rename(d, from+suffix, schema, to+suffix)...)
	}
	return Replace(fsys, strings.NewReplacer(append(pairs, rename(d, from, schema, to)...)...))
}

func rename(d sqltx.Dialect, from, schema, to string) []string {
	table, index := sqltx.Quote(schema, to), strings.TrimSuffix(sqltx.Quote("", to), `"`)+"_"
	on := table
	if d == sqltx.SQLite {
		// There an index is qualified, and its table must not be.
		index, on = strings.TrimSuffix(table, `"`)+"_", sqltx.Quote("", to)
	}
	return []string{
		` ON "` + from + `"`, " ON " + on,
		`"` + from + `"`, table,
		`"` + from + `_`, index,
	}
}

// Replace returns fsys with text replaced in its SQL files as they are read.
func Replace(fsys fs.FS, replacer *strings.Replacer) fs.FS { return replaced{fsys, replacer} }

type replaced struct {
	fs.FS
	replacer *strings.Replacer
}

func (r replaced) Open(name string) (fs.File, error) {
	f, err := r.FS.Open(name)
	if err != nil || path.Ext(name) != ".sql" {
		return f, err
	}
	defer f.Close()
	var text bytes.Buffer
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if _, err := text.ReadFrom(f); err != nil {
		return nil, err
	}
	out := r.replacer.Replace(text.String())
	return &file{Reader: strings.NewReader(out), info: fileInfo{info, int64(len(out))}}, nil
}

type file struct {
	*strings.Reader
	info fileInfo
}

func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *file) Close() error               { return nil }

type fileInfo struct {
	fs.FileInfo
	size int64
}

func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) ModTime() time.Time { return time.Time{} }

// Missing says which of the wanted columns a table lacks, or that there is no such table. It writes nothing.
func Missing(ctx context.Context, q endstate.Querier, schema, table string, columns []string) error {
	list := "SELECT name FROM pragma_table_info(?1)"
	args := []any{table}
	if sqltx.Of(q) == sqltx.Postgres {
		list, args = "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped",
			[]any{sqltx.Quote(schema, table)}
	} else if schema != "" {
		list, args = "SELECT name FROM pragma_table_info(?1, ?2)", []any{table, schema}
	}
	have, err := Strings(ctx, q, list, args...)
	if err != nil {
		return err
	}
	if len(have) == 0 {
		return fmt.Errorf("table %s does not exist", sqltx.Quote(schema, table))
	}
	var errs []error
	for _, column := range columns {
		if !slices.Contains(have, column) {
			errs = append(errs, fmt.Errorf("table %s has no column %s", sqltx.Quote(schema, table), sqltx.Quote("", column)))
		}
	}
	return errors.Join(errs...)
}

// HasUnique reports whether a valid unique index, not limited to some rows, makes the columns together unique: its own are
// among them.
func HasUnique(ctx context.Context, q endstate.Querier, schema, table string, columns []string) (bool, error) {
	indexes := `SELECT string_agg(a.attname, chr(1))
FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
WHERE i.indrelid = to_regclass($1::text) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid`
	args := []any{sqltx.Quote(schema, table)}
	if sqltx.Of(q) == sqltx.SQLite {
		indexes = `SELECT group_concat(name, char(1)) FROM (
	SELECT l.seq AS idx, c.name AS name FROM pragma_index_list(?1) l, pragma_index_info(l.name) c WHERE l."unique" AND NOT l.partial
	UNION ALL SELECT -1, name FROM pragma_table_info(?1) WHERE pk) GROUP BY idx HAVING count(*) = count(name)` // an expression has no name
		args = []any{table}
	}
	found, err := Strings(ctx, q, indexes, args...)
	return slices.ContainsFunc(found, func(index string) bool {
		return !slices.ContainsFunc(strings.Split(index, "\x01"), func(column string) bool { return !slices.Contains(columns, column) })
	}), err
}

// Strings runs a query of one text column.
func Strings(ctx context.Context, q endstate.Querier, query string, args ...any) ([]string, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}
