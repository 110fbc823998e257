package dbtest

import (
	"database/sql"
	"path/filepath"
	"testing"
)

// SQLite returns a new SQLite database in WAL mode.
func SQLite(t testing.TB) *sql.DB {
	t.Helper()
	return SQLiteOn(t, SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), "wal"))
}

// SQLiteDSN is the data source name of a SQLite file with a journal mode ("wal", "delete"), where a connection waits ten
// seconds for another's lock.
func SQLiteDSN(path, journal string) string {
	return "file:" + path + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(" + journal + ")"
}

// SQLiteOn opens a SQLite database, through modernc.org/sqlite or the run's driver.
func SQLiteOn(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	db, err := OpenSQLite(dsn)
	return closed(t, db, err)
}
