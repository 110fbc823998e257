package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// dbEnv is where --db's default comes from. The environment is not for everyone's eyes as the command line is.
const dbEnv = "ENDSTATE_DB"

// database is what --db names: a pool on PostgreSQL, or a *sql.DB on SQLite. The other is nil.
type database struct {
	pool *pgxpool.Pool
	sql  *sql.DB
}

// access says what a command does to the database, which matters to SQLite: to read a file that isn't there must not make it.
type access string

const (
	reads   access = "mode=rw&_pragma=query_only(1)" // and not mode=ro, which can't open a file in WAL mode that nobody has open
	writes  access = "mode=rw"
	creates access = "mode=rwc"
)

// open opens the database that --db names and makes sure that it answers. No error of it shows a credential.
func (a *app) open(ctx context.Context, access access) (*database, error) {
	var db *database
	var err error
	switch scheme, rest, found := strings.Cut(a.url, ":"); {
	case a.url == "":
		return nil, errors.New("no database: give --db or set " + dbEnv)
	case found && (scheme == "postgres" || scheme == "postgresql"):
		if fault := urlFault(a.url); fault != "" {
			return nil, errors.New("--db can't be parsed: " + fault)
		}
		db, err = openPostgres(ctx, a.url)
	case found && scheme == "sqlite":
		db, err = openSQLite(ctx, strings.TrimPrefix(rest, "//"), access)
	case strings.Contains(a.url, "://"):
		return nil, fmt.Errorf("--db has the scheme %q; there are postgres and sqlite", scheme)
	case keyValue.MatchString(a.url): // as libpq has it: there would be a file whose name holds a password
		return nil, errors.New("--db is a list of key=value pairs; write postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETERS, or sqlite:FILE for a file of that name")
	default:
		db, err = openSQLite(ctx, a.url, access)
	}
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	return db, nil
}

var keyValue = regexp.MustCompile(`(?i)(^|\s)(host|hostaddr|port|user|password|dbname|sslmode|service)\s*=`)

const (
	pingTimeout  = 5 * time.Second
	openTimeout  = time.Minute // to connect to one of several hosts, and to look for what the outbox lacks
	closeTimeout = 5 * time.Second
	silence      = 30 * time.Second // after which a connection is given up of whose other end nothing is heard; pgx waits for 45 minutes
)

func openPostgres(ctx context.Context, text string) (*database, error) {
	cfg, err := pgxpool.ParseConfig(text)
	if err != nil {
		return nil, unparsed("--db", text, err)
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = 15 * time.Second
	}
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "endstate"
	}
	if cfg.PingTimeout == 0 {
		cfg.PingTimeout = pingTimeout // or who takes an idle connection that has gone silent would wait for it
	}
	cfg.ConnConfig.DialFunc = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silence / 2, Interval: silence / 6, Count: 3}, Control: giveUp}).DialContext
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	pinging, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := pool.Ping(pinging); err != nil {
		pool.Close()
		return nil, err
	}
	return &database{pool: pool}, nil
}

// unparsed is the error of a PostgreSQL URL that can't be used. Of the driver's only what a file is about is told: the rest
// quotes the URL.
func unparsed(flag, text string, err error) error {
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", flag, file)
	}
	fault := urlFault(text)
	if fault == "" {
		fault = "it is no postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETERS, or a file that it names (sslrootcert, sslcert, sslkey) isn't what it ought to be"
	}
	return fmt.Errorf("%s can't be parsed: %s", flag, fault)
}

func openSQLite(ctx context.Context, path string, access access) (*database, error) {
	if _, err := os.Stat(path); err != nil && access != creates {
		return nil, err
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?_pragma=busy_timeout(20000)&"+string(access))
	if err != nil {
		return nil, err
	}
	// Ping opens the file and looks no further; this reads it.
	if _, err := db.ExecContext(ctx, "SELECT count(*) FROM sqlite_schema"); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &database{sql: db}, nil
}

// name is the database's kind, as --json prints it.
func (db *database) name() string {
	if db.pool != nil {
		return "postgres"
	}
	return "sqlite"
}

// admin looks after the outbox that writer names.
func (db *database) admin(writer outbox.Writer) (*relay.Admin, error) {
	cfg := &relay.Config{Outbox: writer}
	if db.pool != nil {
		return relay.NewAdmin(db.pool, cfg)
	}
	return relay.NewAdminSQL(db.sql, cfg)
}

// relay publishes what admin looks after.
func (db *database) relay(p outbox.Publisher, cfg *relay.Config) (*relay.Relay, error) {
	if db.pool != nil {
		return relay.New(db.pool, p, cfg)
	}
	return relay.NewSQL(db.sql, p, cfg)
}

// close waits for connections to be given back, though not for those of a relay that was left behind: they end with the process.
func (db *database) close() {
	if db.pool == nil {
		_ = db.sql.Close()
		return
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		db.pool.Close()
	}()
	select {
	case <-closed:
	case <-time.After(closeTimeout):
	}
}

// table splits SCHEMA.TABLE, unless schema is given, or there is a table whose own name has the dot. Names are taken as they
// are, without quotes.
func (db *database) table(ctx context.Context, schema, name string) (ownSchema, table string, err error) {
	before, after, dotted := strings.Cut(name, ".")
	if schema != "" || !dotted {
		return schema, name, nil
	}
	var exists bool
	if db.pool != nil {
		err = db.pool.QueryRow(ctx, "SELECT to_regclass($1::text) IS NOT NULL", pgx.Identifier{name}.Sanitize()).Scan(&exists)
	} else {
		err = db.sql.QueryRowContext(ctx, "SELECT count(*) > 0 FROM pragma_table_info(?1)", name).Scan(&exists)
	}
	if err != nil || exists {
		return "", name, err
	}
	return before, after, nil
}

// columns are a table's; none if there is no such table.
func (db *database) columns(ctx context.Context, schema, table string) (have map[string]bool, err error) {
	query, arg := "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped", quote(schema, table)
	if db.pool == nil {
		query, arg = "SELECT name FROM pragma_table_info(?1)", table
	}
	have = map[string]bool{}
	var name string
	return have, db.each(ctx, query, []any{arg}, []any{&name}, func() { have[name] = true })
}

// each reads a query's rows, one after the other into dest.
func (db *database) each(ctx context.Context, query string, args, dest []any, f func()) error {
	return db.read(ctx, func(q endstate.Querier) error {
		rows, err := q.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, dest, func() error { f(); return nil })
		return err
	})
}

// missing says which table or column isn't there; empty columns are left out.
func (db *database) missing(ctx context.Context, schema, table string, columns []string) error {
	have, err := db.columns(ctx, schema, table)
	if err != nil {
		return err
	}
	if len(have) == 0 {
		return fmt.Errorf("table %s does not exist", quote(schema, table))
	}
	for _, column := range columns {
		if column != "" && !have[column] {
			return fmt.Errorf("table %s has no column %s", quote(schema, table), quote("", column))
		}
	}
	return nil
}

// read runs f in a read-only transaction with one snapshot.
func (db *database) read(ctx context.Context, f func(q endstate.Querier) error) error {
	if db.pool != nil {
		return pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '10s'"); err != nil {
				return err
			}
			return f(tx)
		})
	}
	tx, err := db.sql.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	return f(endstate.SQLiteTx(tx))
}

// quote is a name as SQL has it.
func quote(schema, name string) string {
	if schema == "" {
		return pgx.Identifier{name}.Sanitize()
	}
	return pgx.Identifier{schema, name}.Sanitize()
}
