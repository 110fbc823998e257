package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"
)

// world is the database and the Redis of all services: for brevity they share them, each with tables and keys of its own.
type world struct {
	db    *sql.DB
	dsn   string
	redis string
	run   string // a name of this run alone
	close func() error
}

// newWorld makes the tables: in a temporary file, or in a schema of its own that goes afterwards.
func newWorld(ctx context.Context, opts options) (_ *world, err error) {
	var closers []func() error
	w := &world{redis: opts.redis, run: uuid.NewString()[:8], close: func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i]())
		}
		return errors.Join(errs...)
	}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if opts.db == "" {
		dir, err := os.MkdirTemp("", "consumers")
		if err != nil {
			return nil, err
		}
		closers = append(closers, func() error { return os.RemoveAll(dir) })
		w.dsn = "file:" + filepath.Join(dir, "consumers.db") + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)&_pragma=synchronous(normal)"
	} else {
		u, err := url.Parse(opts.db)
		if err != nil {
			return nil, errors.New("-db is not a URL") // unquoted: it may hold a password
		}
		schema := "consumers_" + w.run
		admin, err := sql.Open("pgx", opts.db)
		if err != nil {
			return nil, err
		}
		closers = append(closers, admin.Close)
		if _, err := admin.ExecContext(ctx, "CREATE SCHEMA "+schema); err != nil {
			return nil, err
		}
		closers = append(closers, func() error {
			_, err := admin.Exec("DROP SCHEMA " + schema + " CASCADE")
			return err
		})
		query := u.Query()
		query.Set("search_path", schema)
		u.RawQuery = query.Encode()
		w.dsn = u.String()
	}
	if opts.redis == "" {
		standIn, stop, err := startStandIn()
		if err != nil {
			return nil, err
		}
		closers = append(closers, stop)
		w.redis = standIn
	}
	if w.db, err = open(w.dsn); err != nil {
		return nil, err
	}
	closers = append(closers, w.db.Close)
	return w, w.createTables(ctx)
}

// open opens the database at a data source name of either kind.
func open(dsn string) (*sql.DB, error) {
	if sqlite(dsn) {
		return sql.Open("sqlite", dsn)
	}
	return sql.Open("pgx", dsn)
}

func sqlite(dsn string) bool { return strings.HasPrefix(dsn, "file:") }

// startStandIn starts Redis's stand-in, whose clock has to be told that time goes by.
func startStandIn() (url string, stop func() error, err error) {
	server, err := miniredis.Run()
	if err != nil {
		return "", nil, err
	}
	const tick = 10 * time.Millisecond
	done := make(chan struct{})
	var clock sync.WaitGroup
	clock.Go(func() {
		ticker := time.NewTicker(tick)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				server.FastForward(tick)
			}
		}
	})
	return "redis://" + server.Addr(), func() error {
		close(done)
		clock.Wait()
		server.Close()
		return nil
	}, nil
}

func (w *world) createTables(ctx context.Context) error {
	for _, statement := range []string{
		`CREATE TABLE batches (id TEXT PRIMARY KEY, status TEXT NOT NULL)`,           // the producer's
		`CREATE TABLE lifecycle_batches (id TEXT PRIMARY KEY, status TEXT NOT NULL)`, // lifecycle's
		`CREATE TABLE lifecycle_moves (batch TEXT NOT NULL)`,
		`CREATE TABLE results (batch TEXT PRIMARY KEY, result TEXT NOT NULL)`,
		`CREATE TABLE results_events (event TEXT NOT NULL, batch TEXT NOT NULL)`, // what results has handled, without a key
		`CREATE TABLE credits (batch TEXT PRIMARY KEY)`,                          // entitlements': a credit is keyed by what it is for
		`CREATE TABLE accounts (id INT PRIMARY KEY, charged INT NOT NULL)`,
		`INSERT INTO accounts VALUES (1, 0)`,
	} {
		if _, err := w.db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	for i := range batches {
		for _, table := range []string{"batches", "lifecycle_batches"} {
			if _, err := w.db.ExecContext(ctx, `INSERT INTO `+table+` VALUES ($1, 'PENDING')`, batchID(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// batches is how many there are.
const batches = 12

func batchID(i int) string { return fmt.Sprintf("batch-%d", i+1) }
