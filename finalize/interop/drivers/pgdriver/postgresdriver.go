// Package dbtest is the file of internal/dbtest that opens PostgreSQL, by bun's pgdriver. It takes the other's place in a run of the
// tests that is about this driver.
package dbtest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"net/url"
	"strings"

	"github.com/uptrace/bun/driver/pgdriver"
)

// OpenPostgres opens the PostgreSQL database at dsn. The driver takes a search_path of several schemas for the name of one.
func OpenPostgres(dsn string) (*sql.DB, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, err
	}
	query := u.Query()
	path := query.Get("search_path")
	if !strings.Contains(path, ",") {
		return sql.Open("pg", dsn)
	}
	query.Del("search_path")
	u.RawQuery = query.Encode()
	return sql.OpenDB(connector{pgdriver.NewConnector(pgdriver.WithDSN(u.String())), path}), nil
}

// connector sets the search_path of its connections.
type connector struct {
	*pgdriver.Connector
	path string
}

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err == nil {
		_, err = conn.(driver.ExecerContext).ExecContext(ctx, "SET search_path TO "+c.path, nil)
	}
	return conn, err
}
