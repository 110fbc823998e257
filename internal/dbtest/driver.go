package dbtest

import (
	"os"
	"strings"
)

// The tests go through database/sql by OpenPostgres and OpenSQLite, in files of their own. A run that is about another driver
// (make test-drivers) has go test -overlay put one of finalize/interop/drivers in such a file's place: this module requires pgx
// and modernc.org/sqlite only.

// Apostrophes reports whether arguments come through where a statement has an apostrophe in a name, a comment or a literal, or a
// dollar and a number in a name. bun's pgdriver puts them into the text, and parses that without regard to those.
func Apostrophes() bool { return os.Getenv("ENDSTATE_TEST_DRIVER") != "pgdriver" }

// GivesUp reports whether a statement ends with its context on a connection that has gone silent. lib/pq asks the server to cancel it,
// and waits for the answer.
func GivesUp() bool { return os.Getenv("ENDSTATE_TEST_DRIVER") != "lib/pq" }

// Cancels reports whether a statement ends as soon as its context is cancelled. bun's pgdriver goes by deadlines alone, its own
// read_timeout among them, and the server goes on with what it was at.
func Cancels() bool { return os.Getenv("ENDSTATE_TEST_DRIVER") != "pgdriver" }

// Recovers reports whether a transaction goes on behind a savepoint, whatever its last statement ended with. bun's pgdriver gives
// the connection up after a statement that was broken off, and after one in a transaction that had failed.
func Recovers() bool { return os.Getenv("ENDSTATE_TEST_DRIVER") != "pgdriver" }

// SeveralHosts reports whether a URL may name several, of which the first that answers is taken. bun's pgdriver knows one.
func SeveralHosts() bool { return os.Getenv("ENDSTATE_TEST_DRIVER") != "pgdriver" }

// HeedsReadOnly reports whether default_transaction_read_only holds. lib/pq begins each transaction READ WRITE.
func HeedsReadOnly() bool { return os.Getenv("ENDSTATE_TEST_DRIVER") != "lib/pq" }

// SaysWhyItEnded reports whether the server's last word on a connection that it ended comes through. lib/pq says driver.ErrBadConn.
func SaysWhyItEnded() bool { return os.Getenv("ENDSTATE_TEST_DRIVER") != "lib/pq" }

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
