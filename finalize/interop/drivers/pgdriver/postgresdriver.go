// Package dbtest is the file of internal/dbtest that opens PostgreSQL, by bun's pgdriver. It takes the other's place in a run of the
// tests that is about this driver.
package dbtest

import (
	"database/sql"

	_ "github.com/uptrace/bun/driver/pgdriver" // the driver "pg"
)

// OpenPostgres opens the PostgreSQL database at url.
func OpenPostgres(url string) (*sql.DB, error) { return sql.Open("pg", url) }
