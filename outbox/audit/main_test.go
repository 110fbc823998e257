package audit_test

import (
	"context"
	"database/sql"
	"flag"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox/audit"
)

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // the tests wait for databases more than for the processor
	goleak.VerifyTestMain(m)
}

// database is one of the ways to one of the databases. Tests write through sql.
type database struct {
	name string
	pool *pgxpool.Pool // nil unless the audit is to go through pgx
	sql  *sql.DB
}

func (db *database) postgres() bool { return db.name != "sqlite" }

func (db *database) exec(t testing.TB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		_, err := db.sql.ExecContext(t.Context(), s)
		require.NoError(t, err, s)
	}
}

func (db *database) insert(t testing.TB, query string, rows ...[]any) {
	t.Helper()
	for _, row := range rows {
		_, err := db.sql.ExecContext(t.Context(), query, row...)
		require.NoError(t, err, query)
	}
}

func (db *database) try(ctx context.Context, cfg audit.Config) (*audit.Report, error) {
	if db.pool != nil {
		return audit.Run(ctx, db.pool, cfg)
	}
	return audit.RunSQL(ctx, db.sql, cfg)
}

func (db *database) run(t testing.TB, cfg audit.Config) *audit.Report {
	t.Helper()
	report, err := db.try(t.Context(), cfg)
	require.NoError(t, err)
	return report
}

// each runs a test on PostgreSQL, through pgx and through database/sql, and on SQLite.
func each(t *testing.T, run func(t *testing.T, db *database)) {
	t.Helper()
	t.Run("pgx", func(t *testing.T) {
		t.Parallel()
		url := dbtest.Postgres(t)
		run(t, &database{name: "pgx", pool: dbtest.PoolOn(t, url), sql: dbtest.SQLOn(t, url)})
	})
	t.Run("sql", func(t *testing.T) {
		t.Parallel()
		run(t, &database{name: "sql", sql: dbtest.SQL(t)})
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		run(t, &database{name: "sqlite", sql: dbtest.SQLite(t)})
	})
}

// outbox makes the incident's table.
func (db *database) outbox(t testing.TB) {
	t.Helper()
	uuid, timestamp := "uuid", "timestamptz"
	if !db.postgres() {
		uuid, timestamp = "text", "text"
	}
	db.exec(t, "CREATE TABLE event_outbox (event_id "+uuid+", aggregate_id text, event_type text, created_at "+timestamp+", published_at "+timestamp+")")
}

// put writes an event; a nil published is none.
func (db *database) put(t testing.TB, aggregate, kind any, created, published any) {
	t.Helper()
	db.insert(t, "INSERT INTO event_outbox (aggregate_id, event_type, created_at, published_at) VALUES ($1, $2, $3, $4)",
		[]any{aggregate, kind, db.time(created), db.time(published)})
}

// time is a time as the database's driver is best given it.
func (db *database) time(v any) any {
	if t, ok := v.(time.Time); ok && !db.postgres() {
		return t.Format(time.RFC3339Nano)
	}
	return v
}
