// Package dbtest is the file of internal/dbtest that opens PostgreSQL, by github.com/lib/pq. It takes the other's place in a run of
// the tests that is about this driver.
package dbtest

import (
	"database/sql"
	"net"
	"net/url"
	"strings"

	_ "github.com/lib/pq" // the driver "postgres"
)

// OpenPostgres opens the PostgreSQL database at dsn. Several hosts with ports are parameters of a URL's for this driver.
func OpenPostgres(dsn string) (*sql.DB, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(u.Host, ",") {
		return sql.Open("postgres", dsn)
	}
	var hosts, ports []string
	for place := range strings.SplitSeq(u.Host, ",") {
		host, port, err := net.SplitHostPort(place)
		if err != nil {
			return nil, err
		}
		hosts, ports = append(hosts, host), append(ports, port)
	}
	query := u.Query()
	query.Set("host", strings.Join(hosts, ","))
	query.Set("port", strings.Join(ports, ","))
	u.Host, u.RawQuery = "", query.Encode()
	return sql.Open("postgres", u.String())
}
