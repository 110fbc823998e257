package guard_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/guard/guardtest"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// database is one of the ways to one of the databases.
type database struct {
	t      *testing.T
	name   string
	sqlite bool
	begin  func(context.Context) (endstate.Tx, error)
	pool   *pgxpool.Pool // on PostgreSQL
}

// databases are PostgreSQL through pgx and through database/sql, and SQLite with either journal.
var databases = []string{"pgx", "sql", "sqlite-wal", "sqlite-delete"}

// each runs a test on new databases, one for each name.
func each(t *testing.T, names []string, run func(t *testing.T, db *database)) {
	t.Helper()
	for _, name := range names {
		if !dbtest.Serves(name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, newDatabase(t, name))
		})
	}
}

func newDatabase(t *testing.T, name string) *database {
	t.Helper()
	db := &database{t: t, name: name, sqlite: strings.HasPrefix(name, "sqlite")}
	if db.sqlite {
		dsn := dbtest.SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), strings.TrimPrefix(name, "sqlite-"))
		db.begin = guardtest.SQL(dbtest.SQLiteOn(t, dsn+"&_pragma=synchronous(off)"), endstate.SQLiteTx)
		return db
	}
	url := dbtest.Postgres(t)
	db.pool = dbtest.PoolOn(t, url)
	db.begin = guardtest.Pgx(db.pool)
	if name == "sql" {
		handle := dbtest.SQLOn(t, url)
		handle.SetMaxOpenConns(16)
		db.begin = guardtest.SQL(handle, endstate.PostgresTx)
	}
	return db
}

// in runs f in a transaction that commits.
func (db *database) in(t testing.TB, f func(ctx context.Context, tx endstate.Tx)) {
	t.Helper()
	ctx := context.Background()
	tx, err := db.begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(ctx) }()
	f(ctx, tx)
	require.NoError(t, tx.Commit(ctx))
}

func (db *database) exec(t testing.TB, query string, args ...any) {
	t.Helper()
	db.in(t, func(ctx context.Context, tx endstate.Tx) {
		_, err := tx.Exec(ctx, query, args...)
		require.NoError(t, err, query)
	})
}

func (db *database) migrate(t testing.TB, m guard.Migrator) {
	t.Helper()
	db.in(t, func(ctx context.Context, tx endstate.Tx) { require.NoError(t, m.Migrate(ctx, tx)) })
}

// one reads one value.
func one[T any](t testing.TB, db *database, query string, args ...any) (value T) {
	t.Helper()
	db.in(t, func(ctx context.Context, tx endstate.Tx) {
		require.NoError(t, tx.QueryRow(ctx, query, args...).Scan(&value), query)
	})
	return value
}

// claim claims in a transaction that commits.
func (db *database) claim(t testing.TB, g guard.Guard, ref guard.Ref) (rec guard.Record, err error) {
	t.Helper()
	ctx := context.Background()
	tx, err := db.begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(ctx) }()
	rec, err = g.Claim(ctx, tx, ref)
	if err == nil {
		require.NoError(t, tx.Commit(ctx))
	}
	return rec, err
}

// settle claims, if the guard says open settles, and commits if that succeeded.
func (db *database) settle(t testing.TB, g guard.Guard, ref guard.Ref, state string) (rec guard.Record, err error) {
	t.Helper()
	ctx := context.Background()
	tx, err := db.begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(ctx) }()
	rec, err = g.Claim(ctx, tx, ref)
	if err != nil {
		return rec, err
	}
	if rec.Final {
		return rec, guard.ErrNotOpen
	}
	rec, err = g.Settle(ctx, tx, ref, transition(state))
	if err == nil {
		require.NoError(t, tx.Commit(ctx))
	}
	return rec, err
}

func transition(state string) guard.Transition {
	return guard.Transition{State: state, Trigger: "test", Token: uuid.New(), Digest: make([]byte, 32)}
}

func batch(key guard.Key) guard.Ref { return guard.Ref{Aggregate: "batch", Key: key} }

var (
	states   = [2]string{"COMPLETE_STABLE", "ERROR_PROCESSING"}
	terminal = guard.Prefixes("COMPLETE", "ERROR")
)

// status is a guard over a new table with a text key and an open row for each id.
func (db *database) status(t testing.TB, table string, ids ...string) guard.Status {
	t.Helper()
	s := guard.Status{Table: table, Key: "id", Column: "status", Terminal: terminal}
	db.exec(t, fmt.Sprintf("CREATE TABLE %s (id text PRIMARY KEY, status text, note text)", pgx.Identifier{table}.Sanitize()))
	for _, id := range ids {
		db.exec(t, fmt.Sprintf("INSERT INTO %s (id, status) VALUES ('%s', 'PENDING')", pgx.Identifier{table}.Sanitize(), id))
	}
	return s
}

// setStatus changes a status behind the guard's back.
func (db *database) setStatus(t testing.TB, id, state string) {
	t.Helper()
	db.exec(t, fmt.Sprintf("UPDATE batches SET status = '%s' WHERE id = '%s'", state, id))
}

// counter numbers new aggregates.
type counter struct{ n atomic.Int64 }

func (c *counter) next() int64 { return c.n.Add(1) }
