package dbtest

import (
	"database/sql"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// OpenPostgres opens the PostgreSQL database at url.
func OpenPostgres(url string) (*sql.DB, error) { return sql.Open("pgx", url) }
