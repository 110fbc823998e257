// Package dbtest is the file of internal/dbtest that opens PostgreSQL, by github.com/lib/pq. It takes the other's place in a run of
// the tests that is about this driver.
package dbtest

import (
	"database/sql"

	_ "github.com/lib/pq" // the driver "postgres"
)

// OpenPostgres opens the PostgreSQL database at url.
func OpenPostgres(url string) (*sql.DB, error) { return sql.Open("postgres", url) }
