package sqltx_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// each runs a test in transactions of database/sql on both databases.
func each(t *testing.T, run func(t *testing.T, db *sql.DB, d sqltx.Dialect)) {
	t.Run("postgres", func(t *testing.T) { run(t, dbtest.SQL(t), sqltx.Postgres) })
	t.Run("sqlite", func(t *testing.T) { run(t, dbtest.SQLite(t), sqltx.SQLite) })
}

func TestWrapSpeaksLikePgx(t *testing.T) {
	ctx := context.Background()
	each(t, func(t *testing.T, db *sql.DB, d sqltx.Dialect) {
		found, err := sqltx.Choose(db, "")
		require.NoError(t, err)
		require.Equal(t, d, found)
		_, err = sqltx.Choose(db, "mysql")
		require.ErrorContains(t, err, `Dialect is "mysql"`)

		plain, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		tx := sqltx.Wrap(plain, d)
		require.Equal(t, d, sqltx.Of(tx))
		_, err = tx.Exec(ctx, "CREATE TABLE numbers (n bigint)")
		require.NoError(t, err)
		tag, err := tx.Exec(ctx, "INSERT INTO numbers VALUES ($1), ($2), ($3)", 1, 2, 3)
		require.NoError(t, err)
		require.EqualValues(t, 3, tag.RowsAffected())

		var n int
		require.NoError(t, tx.QueryRow(ctx, "SELECT n FROM numbers WHERE n = $1", 2).Scan(&n))
		require.Equal(t, 2, n)
		require.ErrorIs(t, tx.QueryRow(ctx, "SELECT n FROM numbers WHERE n = $1", 9).Scan(&n), pgx.ErrNoRows)
		rows, err := tx.Query(ctx, "SELECT n FROM numbers ORDER BY n")
		require.NoError(t, err)
		list, err := pgx.CollectRows(rows, pgx.RowTo[int])
		require.NoError(t, err)
		require.Equal(t, []int{1, 2, 3}, list)
		rows, err = tx.Query(ctx, "SELECT n, 'x' FROM numbers WHERE n = 1")
		require.NoError(t, err)
		require.True(t, rows.Next())
		values, err := rows.Values()
		require.NoError(t, err)
		require.Equal(t, []any{int64(1), "x"}, values)
		require.False(t, rows.Next())
		require.NoError(t, rows.Err())
		require.EqualValues(t, 1, rows.CommandTag().RowsAffected())
		rows.Close()

		require.NoError(t, tx.Rollback(ctx))
		_, err = sqltx.WrapDB(db, d).Exec(ctx, "SELECT n FROM numbers")
		require.True(t, sqltx.Incomplete(err), "%v", err)
	})
}

// fields is an error with the fields of the protocol's.
type fields map[byte]string

func (f fields) Field(k byte) string { return f[k] }
func (f fields) Error() string       { return f['C'] }

// failing is a driver whose query fails when its first row is fetched, as those do that fetch lazily.
type failing struct{ err error }

func (f failing) Connect(context.Context) (driver.Conn, error)       { return f, nil }
func (f failing) Driver() driver.Driver                              { return nil }
func (f failing) Prepare(string) (driver.Stmt, error)                { return nil, errors.New("unused") }
func (f failing) Close() error                                       { return nil }
func (f failing) Begin() (driver.Tx, error)                          { return nil, errors.New("unused") }
func (f failing) Columns() []string                                  { return []string{"state"} }
func (f failing) Next([]driver.Value) error                          { return f.err }
func (f failing) Query(string, []driver.Value) (driver.Rows, error)  { return f, nil }
func (f failing) Exec(string, []driver.Value) (driver.Result, error) { return nil, f.err }

// Such an error is not "no rows": that would make an aggregate open that nobody has seen.
func TestAFailedFetchIsNotNoRows(t *testing.T) {
	broken := errors.New("broken off")
	db := sql.OpenDB(failing{broken})
	defer db.Close()
	var state string
	err := sqltx.WrapDB(db, sqltx.SQLite).QueryRow(context.Background(), "SELECT state").Scan(&state)
	require.ErrorIs(t, err, broken)
	require.NotErrorIs(t, err, pgx.ErrNoRows)
	require.NotErrorIs(t, err, sql.ErrNoRows)
}

func TestErrorsByTheirCodes(t *testing.T) {
	ctx := context.Background()
	each(t, func(t *testing.T, db *sql.DB, d sqltx.Dialect) {
		q := sqltx.WrapDB(db, d)
		exec := func(statement string) error {
			_, err := q.Exec(ctx, statement)
			return err
		}
		require.NoError(t, exec("CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, c int CHECK (c > 0))"))
		require.NoError(t, exec("INSERT INTO t VALUES (1, 1, 1)"))
		for statement, want := range map[string]struct{ unique, incomplete bool }{
			"INSERT INTO t VALUES (1, 2, 1)": {unique: true},
			"INSERT INTO t VALUES (2, 1, 1)": {unique: true},
			"INSERT INTO t VALUES (3, 3, 0)": {},
			"SELECT * FROM nowhere":          {incomplete: true},
			"SELECT nothing FROM t":          {incomplete: true},
		} {
			err := fmt.Errorf("in a chain: %w", errors.Join(errors.New("other"), exec(statement)))
			require.Equal(t, want.unique, sqltx.Unique(err), statement)
			require.Equal(t, want.incomplete, sqltx.Incomplete(err), statement)
			require.False(t, sqltx.Conflicted(err), statement)
			require.True(t, sqltx.Definite(err), statement)
		}
	})
	for code, conflicted := range map[string]bool{"40001": true, "40P01": true, "23505": false, "57014": false, "": false} {
		require.Equal(t, conflicted, sqltx.Conflicted(&pgconn.PgError{Code: code}), code)
	}
	for _, err := range []error{
		errors.New("x"), context.Canceled, driver.ErrBadConn, sql.ErrConnDone,
		&pgconn.PgError{Severity: "FATAL", Code: "57P01"}, &pgconn.PgError{Severity: "ERROR", Code: "08006"},
	} {
		require.False(t, sqltx.Definite(err), "%v", err)
		require.False(t, sqltx.Conflicted(err), "%v", err)
		require.Empty(t, sqltx.State(errors.New("x")))
	}
	require.True(t, sqltx.Definite(fmt.Errorf("commit: %w", fields{'C': "23505", 'V': "ERROR"})), "pgdriver's way to tell a SQLSTATE")
	require.True(t, sqltx.Definite(&pgconn.PgError{Severity: "ERROR", Code: "08006", Routine: "dblink_connstr_check"}), "a trigger's connection to another database")
	require.True(t, sqltx.Definite(fields{'C': "08006", 'V': "ERROR", 'R': "exec_stmt_raise"}))
	require.Equal(t, "23505", sqltx.State(fmt.Errorf("commit: %w", fields{'C': "23505"})))
	require.True(t, sqltx.Conflicted(fields{'C': "40001"}))
	for _, err := range []error{fields{'C': "57P01", 'V': "FATAL"}, fields{'C': "53300", 'V': "FATAL"}, fields{'C': "08006"}, fields{}} {
		require.False(t, sqltx.Definite(err), "%v", err)
	}
	require.False(t, sqltx.Definite(nil))
	require.False(t, sqltx.Conflicted(nil))
	require.True(t, sqltx.RolledBack(fmt.Errorf("commit: %w", pgx.ErrTxCommitRollback)))
}

func TestBusyIsKnownByItsCode(t *testing.T) {
	ctx := context.Background()
	path := t.TempDir() + "/test.db"
	a, b := dbtest.SQLiteOn(t, dbtest.SQLiteDSN(path, "wal")), dbtest.SQLiteOn(t, "file:"+path+"?_pragma=busy_timeout(0)")
	_, err := a.ExecContext(ctx, "CREATE TABLE t (n int)")
	require.NoError(t, err)
	tx, err := a.BeginTx(ctx, nil)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	_, err = tx.ExecContext(ctx, "INSERT INTO t VALUES (1)")
	require.NoError(t, err)
	_, err = b.ExecContext(ctx, "INSERT INTO t VALUES (2)")
	require.True(t, sqltx.Conflicted(err), "%v", err)
	require.False(t, sqltx.Unique(err))
	require.False(t, sqltx.Incomplete(err))
}

func TestIdentifiersAndLiterals(t *testing.T) {
	ctx := context.Background()
	each(t, func(t *testing.T, db *sql.DB, d sqltx.Dialect) {
		q := sqltx.WrapDB(db, d)
		for _, name := range []string{"plain", "Upper", "a b", `a"b`, `"`, "a'b", `a\b`, "a;b--", "é", "$1", "?", "%"} {
			require.NoError(t, sqltx.CheckIdent(name))
			_, err := q.Exec(ctx, "CREATE TABLE "+sqltx.Quote("", name)+" (n int)")
			require.NoError(t, err, name)
			catalog := "SELECT count(*) FROM pg_class WHERE relname = $1"
			if d == sqltx.SQLite {
				catalog = "SELECT count(*) FROM sqlite_schema WHERE name = $1"
			}
			var n int
			require.NoError(t, q.QueryRow(ctx, catalog, name).Scan(&n))
			require.Equal(t, 1, n, name)
			if d == sqltx.Postgres {
				for _, strings := range []string{"on", "off"} {
					var same bool
					conn, err := db.Conn(ctx)
					require.NoError(t, err)
					_, err = conn.ExecContext(ctx, "SET standard_conforming_strings = "+strings)
					require.NoError(t, err)
					require.NoError(t, conn.QueryRowContext(ctx, "SELECT "+sqltx.Literal(name+`\'x\\`)+" = $1", name+`\'x\\`).Scan(&same))
					require.True(t, same, name)
					_, err = conn.ExecContext(ctx, "SET standard_conforming_strings = on")
					require.NoError(t, err)
					require.NoError(t, conn.Close())
				}
			}
		}
	})
	require.Equal(t, `"s""1"."t"`, sqltx.Quote(`s"1`, "t"))
	for _, bad := range []string{"", "a\x00", "\xff", string(make([]byte, 64))} {
		require.Error(t, sqltx.CheckIdent(bad))
	}
}
