package finalize_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// Every door finds rows by keys of every column type, also in a session of another time zone, and many at a time.
func TestKeysOfEveryColumnType(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t) + "&timezone=America/New_York"
	pool, db := dbtest.PoolOn(t, url, func(c *pgxpool.Config) { c.MaxConns = 4 }), dbtest.SQLOn(t, url)
	exec := func(query string) { _, err := db.ExecContext(t.Context(), query); require.NoError(t, err, query) }
	exec("CREATE DOMAIN code AS text; CREATE DOMAIN padded AS char(9); CREATE DOMAIN number AS int")
	moment := func(n int) time.Time { return time.Date(2026, 3, 29, n, 59, 59, 999999000, time.UTC) }
	id := uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	for i, c := range []struct {
		columns string
		values  func(n int) []any
		key     func(n int) guard.Key
	}{
		{"a char(9) PRIMARY KEY", func(n int) []any { return []any{fmt.Sprintf(`{"%d\`, n)} }, func(n int) guard.Key { return guard.Text(fmt.Sprintf(`{"%d\`, n)) }},
		{"a padded PRIMARY KEY", func(n int) []any { return []any{fmt.Sprint("k", n)} }, func(n int) guard.Key { return guard.Text(fmt.Sprint("k", n)) }},
		{"a code PRIMARY KEY", func(n int) []any { return []any{fmt.Sprint("k", n)} }, func(n int) guard.Key { return guard.Text(fmt.Sprint("k", n)) }},
		{"a number PRIMARY KEY", func(n int) []any { return []any{n} }, func(n int) guard.Key { return guard.Int(int64(n)) }},
		{"a numeric(9) PRIMARY KEY", func(n int) []any { return []any{n} }, func(n int) guard.Key { return guard.Int(int64(n)) }},
		{"a bytea PRIMARY KEY", func(n int) []any { return []any{[]byte{byte(n), 0xff, '"'}} }, func(n int) guard.Key { return guard.Bytes([]byte{byte(n), 0xff, '"'}) }},
		{"a timestamptz PRIMARY KEY", func(n int) []any { return []any{moment(n)} }, func(n int) guard.Key { return guard.Time(moment(n)) }},
		{"a timestamp PRIMARY KEY", func(n int) []any { return []any{moment(n)} }, func(n int) guard.Key { return guard.Time(moment(n)) }},
		{"a uuid, b date, PRIMARY KEY (a, b)", func(n int) []any { return []any{id, moment(24 * n)} }, func(n int) guard.Key { return guard.Composite(guard.UUID(id), guard.Date(moment(24*n))) }},
		{"a char(9), b timestamptz, PRIMARY KEY (a, b)", func(n int) []any { return []any{"k", moment(n)} }, func(n int) guard.Key { return guard.Composite(guard.Text("k"), guard.Time(moment(n))) }},
	} {
		t.Run(c.columns, func(t *testing.T) {
			table := fmt.Sprint("t", i)
			exec(fmt.Sprintf("CREATE TABLE %s (%s, status text)", table, c.columns))
			keys := []string{"a"}
			values := "$1"
			if len(c.values(0)) == 2 {
				keys, values = []string{"a", "b"}, "$1, $2"
			}
			for n := 1; n <= 12; n++ {
				_, err := pool.Exec(t.Context(), fmt.Sprintf("INSERT INTO %s VALUES (%s, NULL)", table, values), c.values(n)...)
				require.NoError(t, err)
			}
			cfg := &finalize.Config{Aggregate: table, Logger: discard(),
				Guard: guard.All(guard.Status{Table: table, Keys: keys, Column: "status", Terminal: guard.Names("DONE")}, guard.Ledger{})}
			fin, err := finalize.New(pool, cfg)
			require.NoError(t, err)
			require.NoError(t, fin.Migrate(t.Context()))
			require.NoError(t, fin.Check(t.Context()))
			finSQL, err := finalize.NewSQL(db, cfg)
			require.NoError(t, err)
			requireWins(t, fin, func(n int) guard.Key { return c.key(n) }, func(context.Context, pgx.Tx) (finalize.Outcome, error) { return completedAs("DONE"), nil })
			requireWins(t, finSQL, func(n int) guard.Key { return c.key(6 + n) }, func(context.Context, *sql.Tx) (finalize.Outcome, error) { return completedAs("DONE"), nil })
			var open int
			require.NoError(t, db.QueryRowContext(t.Context(), fmt.Sprintf("SELECT count(*) FROM %s WHERE status IS NULL", table)).Scan(&open))
			require.Zero(t, open)
		})
	}
}

func completedAs(state string) finalize.Outcome { return finalize.Outcome{State: state} }

// requireWins wins six aggregates: by Settle, by Do, and four by SettleMany.
func requireWins[Tx any](t *testing.T, fin *finalize.Finalizer[Tx], key func(n int) guard.Key, work finalize.Func[Tx]) {
	t.Helper()
	r, err := fin.Settle(t.Context(), key(1), "test", completedAs("DONE"))
	require.NoError(t, err)
	require.True(t, r.Won)
	r, err = fin.Do(t.Context(), key(2), "test", work)
	require.NoError(t, err)
	require.True(t, r.Won)
	var items []finalize.Item
	for n := 1; n <= 6; n++ {
		require.NoError(t, fin.Forget(t.Context(), key(n)))
		items = append(items, finalize.Item{Key: key(n), Outcome: completedAs("DONE")})
	}
	results, err := fin.SettleMany(t.Context(), "test", items)
	require.NoError(t, err)
	for i, r := range results {
		require.Equal(t, i > 1, r.Receipt.Won)
	}
}

// Every door opens on a view that PostgreSQL updates by itself.
func TestAViewIsFinalizedThrough(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	pool, db := dbtest.PoolOn(t, url), dbtest.SQLOn(t, url)
	_, err := db.ExecContext(t.Context(), "CREATE TABLE base (id int PRIMARY KEY, status text); CREATE VIEW orders AS SELECT id, status FROM base WHERE id > 0; INSERT INTO base SELECT n FROM generate_series(1, 12) AS n")
	require.NoError(t, err)
	cfg := &finalize.Config{Aggregate: "order", Logger: discard(), Guard: guard.All(guard.Status{Table: "orders", Key: "id", Column: "status", Terminal: guard.Names("DONE")}, guard.Ledger{})}
	fin, err := finalize.New(pool, cfg)
	require.NoError(t, err)
	require.NoError(t, fin.Migrate(t.Context()))
	require.NoError(t, fin.Check(t.Context()))
	finSQL, err := finalize.NewSQL(db, cfg)
	require.NoError(t, err)
	requireWins(t, fin, func(n int) guard.Key { return guard.Int(int64(n)) }, func(context.Context, pgx.Tx) (finalize.Outcome, error) { return completedAs("DONE"), nil })
	requireWins(t, finSQL, func(n int) guard.Key { return guard.Int(int64(6 + n)) }, func(context.Context, *sql.Tx) (finalize.Outcome, error) { return completedAs("DONE"), nil })
}

// A key of another kind than its column is refused by the column's name, through every driver.
func TestAKeyOfTheWrongKindIsNamed(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	pool, db := dbtest.PoolOn(t, url), dbtest.SQLOn(t, url)
	_, err := db.ExecContext(t.Context(), "CREATE TABLE orders (id uuid PRIMARY KEY, status text); CREATE TABLE days (id date PRIMARY KEY, status text)")
	require.NoError(t, err)
	for table, key := range map[string]guard.Key{"orders": guard.Text("6ba7b810-9dad-11d1-80b4-00c04fd430c8"), "days": guard.Time(time.Now())} {
		cfg := &finalize.Config{Aggregate: "order", Logger: discard(), Guard: guard.All(guard.Status{Table: table, Key: "id", Column: "status", Terminal: guard.Names("DONE")}, guard.Ledger{})}
		fin, err := finalize.New(pool, cfg)
		require.NoError(t, err)
		require.NoError(t, fin.Migrate(t.Context()))
		finSQL, err := finalize.NewSQL(db, cfg)
		require.NoError(t, err)
		named := func(_ finalize.Receipt, err error) {
			t.Helper()
			require.ErrorIs(t, err, guard.ErrInvalidKey)
			require.ErrorContains(t, err, `column "id" of "`+table+`" is `)
			require.ErrorContains(t, err, ": use guard.")
		}
		named(fin.Settle(t.Context(), key, "test", completedAs("DONE")))
		named(fin.Do(t.Context(), key, "test", func(context.Context, pgx.Tx) (finalize.Outcome, error) { return completedAs("DONE"), nil }))
		named(finSQL.Settle(t.Context(), key, "test", completedAs("DONE")))
		results, err := fin.SettleMany(t.Context(), "test", []finalize.Item{{Key: key, Outcome: completedAs("DONE")}})
		require.Error(t, err)
		named(finalize.Receipt{}, results[0].Err)
	}
}
