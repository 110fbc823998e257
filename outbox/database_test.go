package outbox_test

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

// database is one of the ways to one of the databases.
type database struct {
	sqlite bool
	url    string // a file's DSN on SQLite
	begin  func(context.Context) (endstate.Tx, error)
	pool   *pgxpool.Pool // one of the two
	sql    *sql.DB
}

// databases are PostgreSQL through pgx and through database/sql, and SQLite with either journal.
var databases = []string{"pgx", "sql", "sqlite-wal", "sqlite-delete"}

// each runs a test on new databases, each with an outbox unless writer is nil.
func each(t *testing.T, names []string, writer *outbox.Writer, run func(t *testing.T, db *database)) {
	t.Helper()
	for _, name := range names {
		if !dbtest.Serves(name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, name)
			if writer != nil {
				db.migrate(t, *writer)
			}
			run(t, db)
		})
	}
}

func newDatabase(t *testing.T, name string) *database {
	t.Helper()
	if journal, ok := strings.CutPrefix(name, "sqlite-"); ok {
		dsn := dbtest.SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), journal)
		db := dbtest.SQLiteOn(t, dsn+"&_pragma=synchronous(off)")
		return &database{sqlite: true, url: dsn, sql: db, begin: beginSQL(db, endstate.SQLiteTx)}
	}
	url := dbtest.Postgres(t)
	if name == "sql" {
		db := dbtest.SQLOn(t, url)
		return &database{url: url, sql: db, begin: beginSQL(db, endstate.PostgresTx)}
	}
	pool := dbtest.PoolOn(t, url)
	return &database{url: url, pool: pool, begin: beginPgx(pool)}
}

func beginPgx(pool *pgxpool.Pool) func(context.Context) (endstate.Tx, error) {
	return func(ctx context.Context) (endstate.Tx, error) { return pool.Begin(ctx) }
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

// try runs f in a transaction that commits if f returns nil.
func (db *database) try(f func(ctx context.Context, tx endstate.Tx) error) error {
	ctx := context.Background()
	tx, err := db.begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if err := f(ctx, tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func (db *database) in(t testing.TB, f func(ctx context.Context, tx endstate.Tx)) {
	t.Helper()
	require.NoError(t, db.try(func(ctx context.Context, tx endstate.Tx) error { f(ctx, tx); return nil }))
}

func (db *database) exec(t testing.TB, query string, args ...any) {
	t.Helper()
	db.in(t, func(ctx context.Context, tx endstate.Tx) {
		_, err := tx.Exec(ctx, query, args...)
		require.NoError(t, err, query)
	})
}

func (db *database) migrate(t testing.TB, w outbox.Writer) {
	t.Helper()
	db.in(t, func(ctx context.Context, tx endstate.Tx) { require.NoError(t, w.Migrate(ctx, tx)) })
}

func (db *database) put(t testing.TB, events ...outbox.Event) (results []outbox.Result) {
	t.Helper()
	db.in(t, func(ctx context.Context, tx endstate.Tx) {
		var err error
		results, err = outbox.Put(ctx, tx, events...)
		require.NoError(t, err)
	})
	return results
}

// one reads one value.
func one[T any](t testing.TB, db *database, query string, args ...any) (value T) {
	t.Helper()
	db.in(t, func(ctx context.Context, tx endstate.Tx) {
		require.NoError(t, tx.QueryRow(ctx, query, args...).Scan(&value), query)
	})
	return value
}

func (db *database) count(t testing.TB) int {
	t.Helper()
	return one[int](t, db, "SELECT count(*) FROM endstate_outbox")
}

// stored is an event as it is in a table, in the order of seq.
func (db *database) stored(t testing.TB, w outbox.Writer) []outbox.Event {
	t.Helper()
	var events []outbox.Event
	table := pgx.Identifier{w.Name()}.Sanitize()
	if w.Schema != "" {
		table = pgx.Identifier{w.Schema, w.Name()}.Sanitize()
	}
	db.in(t, func(ctx context.Context, tx endstate.Tx) {
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

// event is a valid event; numbers tell events apart.
func event(kind, dedupKey string) outbox.Event {
	return outbox.Event{AggregateType: "batch", AggregateID: "b1", Type: kind, Payload: []byte(`{"ok":true}`), DedupKey: dedupKey}
}
