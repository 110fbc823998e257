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
	query.Set("read_timeout", "30s") // its default is less than what a statement may wait for on a busy machine
	path := query.Get("search_path")
	if strings.Contains(path, ",") {
		query.Del("search_path")
	} else {
		path = ""
	}
	u.RawQuery = query.Encode()
	c := pgdriver.NewConnector(pgdriver.WithDSN(u.String()))
	if path == "" {
		return sql.OpenDB(c), nil
	}
	return sql.OpenDB(connector{c, path}), nil
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
