// Package outboxdbtest gives tests an outbox on each of the databases that it works on.
package outboxdbtest

import (
	"context"
	"database/sql"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// Database is one of the ways to one of the databases.
type Database struct {
	SQLite bool
	URL    string // a file's DSN on SQLite
	Begin  func(context.Context) (endstate.Tx, error)
	Pool   *pgxpool.Pool // one of the two
	SQL    *sql.DB
}

// Names are PostgreSQL through pgx and through database/sql, and SQLite with either journal.
var Names = []string{"pgx", "sql", "sqlite-wal", "sqlite-delete"}

// Each runs a test on new databases, each with an outbox unless writer is nil.
func Each(t *testing.T, names []string, writer *outbox.Writer, run func(t *testing.T, db *Database)) {
	t.Helper()
	for _, name := range names {
		if !dbtest.Serves(name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := New(t, name)
			if writer != nil {
				db.Migrate(t, *writer)
			}
			run(t, db)
		})
	}
}

// New returns a new database, by one of Names.
func New(t testing.TB, name string) *Database {
	t.Helper()
	if journal, ok := strings.CutPrefix(name, "sqlite-"); ok {
		dsn := dbtest.SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), journal)
		db := dbtest.SQLiteOn(t, dsn+"&_pragma=synchronous(off)")
		return &Database{SQLite: true, URL: dsn, SQL: db, Begin: beginSQL(db, endstate.SQLiteTx)}
	}
	url := dbtest.Postgres(t)
	if name == "sql" {
		return Over(dbtest.SQLOn(t, url), url)
	}
	return On(t, url)
}

// On returns the PostgreSQL database at url, through pgx. The functions may change its pool's configuration.
func On(t testing.TB, url string, configure ...func(*pgxpool.Config)) *Database {
	t.Helper()
	pool := dbtest.PoolOn(t, url, configure...)
	return &Database{URL: url, Pool: pool, Begin: func(ctx context.Context) (endstate.Tx, error) { return pool.Begin(ctx) }}
}

// Over returns the PostgreSQL database at url, through db.
func Over(db *sql.DB, url string) *Database {
	return &Database{URL: url, SQL: db, Begin: beginSQL(db, endstate.PostgresTx)}
}

func beginSQL(db *sql.DB, wrap func(endstate.SQLTx) endstate.Tx) func(context.Context) (endstate.Tx, error) {
	return func(ctx context.Context) (endstate.Tx, error) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return nil, err
		}
		return wrap(tx), nil
	}
}

// Try runs f in a transaction that commits if f returns nil.
func (db *Database) Try(f func(ctx context.Context, tx endstate.Tx) error) error {
	ctx := context.Background()
	tx, err := db.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if err := f(ctx, tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// In runs f in a transaction that commits.
func (db *Database) In(t testing.TB, f func(ctx context.Context, tx endstate.Tx)) {
	t.Helper()
	require.NoError(t, db.Try(func(ctx context.Context, tx endstate.Tx) error { f(ctx, tx); return nil }))
}

// Exec runs a statement in a transaction of its own.
func (db *Database) Exec(t testing.TB, query string, args ...any) {
	t.Helper()
	db.In(t, func(ctx context.Context, tx endstate.Tx) {
		_, err := tx.Exec(ctx, query, args...)
		require.NoError(t, err, query)
	})
}

// Migrate makes w's tables.
func (db *Database) Migrate(t testing.TB, w outbox.Writer) {
	t.Helper()
	db.In(t, func(ctx context.Context, tx endstate.Tx) { require.NoError(t, w.Migrate(ctx, tx)) })
}

// Put puts events into the default outbox, in a transaction of their own.
func (db *Database) Put(t testing.TB, events ...outbox.Event) (results []outbox.Result) {
	t.Helper()
	db.In(t, func(ctx context.Context, tx endstate.Tx) {
		var err error
		results, err = outbox.Put(ctx, tx, events...)
		require.NoError(t, err)
	})
	return results
}

// Querier is a database, or what has one embedded.
type Querier interface {
	In(t testing.TB, f func(ctx context.Context, tx endstate.Tx))
}

// One reads one value.
func One[T any](t testing.TB, db Querier, query string, args ...any) (value T) {
	t.Helper()
	db.In(t, func(ctx context.Context, tx endstate.Tx) {
		require.NoError(t, tx.QueryRow(ctx, query, args...).Scan(&value), query)
	})
	return value
}

// Count counts the default outbox's events.
func (db *Database) Count(t testing.TB) int {
	t.Helper()
	return One[int](t, db, "SELECT count(*) FROM endstate_outbox")
}

// Stored returns a table's events, in the order of seq.
func (db *Database) Stored(t testing.TB, w outbox.Writer) []outbox.Event {
	t.Helper()
	var events []outbox.Event
	table := pgx.Identifier{w.Name()}.Sanitize()
	if w.Schema != "" {
		table = pgx.Identifier{w.Schema, w.Name()}.Sanitize()
	}
	db.In(t, func(ctx context.Context, tx endstate.Tx) {
		rows, err := tx.Query(ctx, `SELECT CAST(id AS text), aggregate_type, aggregate_id, type, payload, content_type, CAST(headers AS text), occurred_at, coalesce(dedup_key, ''), schema_version
FROM `+table+" ORDER BY seq")
		require.NoError(t, err)
		defer rows.Close()
		for rows.Next() {
			var e outbox.Event
			var id, headers string
			var at any
			require.NoError(t, rows.Scan(&id, &e.AggregateType, &e.AggregateID, &e.Type, &e.Payload, &e.ContentType, &headers, &at, &e.DedupKey, &e.SchemaVersion))
			e.ID = uuid.MustParse(id)
			require.NoError(t, json.Unmarshal([]byte(headers), &e.Headers))
			switch at := at.(type) {
			case time.Time:
				e.OccurredAt = at.UTC()
			case string:
				e.OccurredAt, err = time.Parse(time.RFC3339Nano, at)
				require.NoError(t, err)
			}
			events = append(events, e)
		}
		require.NoError(t, rows.Err())
	})
	return events
}

// Event is a valid event; numbers tell events apart.
func Event(kind, dedupKey string) outbox.Event {
	return outbox.Event{AggregateType: "batch", AggregateID: "b1", Type: kind, Payload: []byte(`{"ok":true}`), DedupKey: dedupKey}
}
