package dbtest

import (
	"os"
	"strings"
)

// The tests go through database/sql by OpenPostgres and OpenSQLite, in files of their own. A run that is about another driver
// (make test-drivers) has go test -overlay put one of finalize/interop/drivers in such a file's place: this module requires pgx
// and modernc.org/sqlite only.

// Serves reports whether a test runs on one of its databases: "pgx", "sql" (PostgreSQL through database/sql), or what begins with
// "sqlite". A run that is about a driver leaves out what that one isn't for.
func Serves(database string) bool {
	switch os.Getenv("ENDSTATE_TEST_DRIVER") {
	case "":
		return true
	case "modernc", "mattn":
		return strings.HasPrefix(database, "sqlite")
	}
	return database == "sql"
}
