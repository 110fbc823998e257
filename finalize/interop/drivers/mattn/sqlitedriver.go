// Package dbtest is the file of internal/dbtest that opens SQLite, by github.com/mattn/go-sqlite3. It takes the other's place in a
// run of the tests that is about this driver.
package dbtest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"regexp"
	"sync"

	"github.com/mattn/go-sqlite3"
)

// OpenSQLite opens a SQLite database. The DSN is as modernc.org/sqlite has it.
func OpenSQLite(dsn string) (*sql.DB, error) {
	return sql.OpenDB(connector(pragma.ReplaceAllString(dsn, "_$1=$2"))), nil
}

var pragma = regexp.MustCompile(`_pragma=(\w+)\((\w+)\)`)

// connector opens connections of a DSN.
type connector string

// Driver implements driver.Connector.
func (connector) Driver() driver.Driver { return &sqlite3.SQLiteDriver{ConnectHook: connected} }

// Connect implements driver.Connector.
func (c connector) Connect(context.Context) (driver.Conn, error) { return c.Driver().Open(string(c)) }

// hooks are what the connections of this process are to begin with.
var (
	mu    sync.Mutex
	hooks []func(*sqlite3.SQLiteConn) error
)

func connected(conn *sqlite3.SQLiteConn) error {
	mu.Lock()
	defer mu.Unlock()
	for _, hook := range hooks {
		if err := hook(conn); err != nil {
			return err
		}
	}
	return nil
}

func hook(f func(*sqlite3.SQLiteConn) error) {
	mu.Lock()
	defer mu.Unlock()
	hooks = append(hooks, f)
}

// SQLiteCode returns the extended result code of a SQLite error, or 0.
func SQLiteCode(err error) int {
	if e, ok := errors.AsType[sqlite3.Error](err); ok {
		return int(e.ExtendedCode)
	}
	return 0
}

// SQLiteFunction gives the connections that this process opens from now on a function without arguments, which calls f.
func SQLiteFunction(name string, f func()) error {
	hook(func(conn *sqlite3.SQLiteConn) error {
		return conn.RegisterFunc(name, func() int { f(); return 0 }, false)
	})
	return nil
}

// SQLiteConnected has the connections that this process opens from now on begin with a statement.
func SQLiteConnected(statement string) {
	hook(func(conn *sqlite3.SQLiteConn) error {
		_, err := conn.Exec(statement, nil)
		return err
	})
}

// SQLiteCommitting has a driver's connection call f in each COMMIT.
func SQLiteCommitting(conn any, f func()) {
	conn.(*sqlite3.SQLiteConn).RegisterCommitHook(func() int { f(); return 0 })
}
