package dbtest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"

	"modernc.org/sqlite"
)

// OpenSQLite opens a SQLite database. The DSN is as modernc.org/sqlite has it.
func OpenSQLite(dsn string) (*sql.DB, error) { return sql.Open("sqlite", dsn) }

// SQLiteCode returns the extended result code of a SQLite error, or 0.
func SQLiteCode(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()
	}
	return 0
}

// SQLiteFunction gives the connections that this process opens from now on a function without arguments, which calls f.
func SQLiteFunction(name string, f func()) error {
	return sqlite.RegisterScalarFunction(name, 0, func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
		f()
		return int64(0), nil
	})
}

// SQLiteConnected has the connections that this process opens from now on begin with a statement.
func SQLiteConnected(statement string) {
	sqlite.RegisterConnectionHook(func(conn sqlite.ExecQuerierContext, _ string) error {
		_, err := conn.ExecContext(context.Background(), statement, nil)
		return err
	})
}

// SQLiteCommitting has a driver's connection call f in each COMMIT.
func SQLiteCommitting(conn any, f func()) {
	conn.(sqlite.HookRegisterer).RegisterCommitHook(func() int32 {
		f()
		return 0
	})
}
