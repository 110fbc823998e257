package main

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"strings"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"
)

// store is the database of one run: a SQLite file or a PostgreSQL schema.
type store struct {
	*sql.DB
	postgres bool
	schema   string
}

func openStore(o options) (*store, error) {
	s := &store{postgres: o.db != "", schema: "assessment_" + o.guard}
	driver, dsn := "sqlite", "file:"+o.file()+"?_pragma=busy_timeout(20000)&_pragma=journal_mode(wal)"
	if s.postgres {
		u, err := url.Parse(o.db)
		if err != nil {
			return nil, fmt.Errorf("-db can't be parsed as a URL") // the error itself would show the password
		}
		query := u.Query()
		query.Set("search_path", s.schema)
		u.RawQuery = query.Encode()
		driver, dsn = "pgx", u.String()
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", driver, err)
	}
	db.SetMaxOpenConns(o.connections())
	db.SetMaxIdleConns(o.connections())
	s.DB = db
	return s, nil
}

// sql writes a statement's placeholders as the database wants them.
func (s *store) sql(query string) string {
	if s.postgres {
		return query
	}
	return strings.ReplaceAll(query, "$", "?")
}

// create makes the tables and the batches anew.
func (s *store) create(ctx context.Context, o options) error {
	if s.postgres {
		if err := s.drop(ctx); err != nil {
			return err
		}
		if _, err := s.ExecContext(ctx, "CREATE SCHEMA "+s.schema); err != nil {
			return err
		}
	}
	statements := []string{
		// failed counts comparisons that ended in an error: a batch is out of work when done + failed = comparisons.
		`CREATE TABLE batches (id text PRIMARY KEY, status text NOT NULL, comparisons integer NOT NULL, done integer NOT NULL, failed integer NOT NULL)`,
		// What the example counts itself: each call of a trigger, each finalization with what was done by then, and
		// each scoring.
		`CREATE TABLE trigger_calls (batch_id text NOT NULL, caller text NOT NULL, result text NOT NULL, pid integer NOT NULL)`,
		`CREATE TABLE finalizations (batch_id text NOT NULL, caller text NOT NULL, premature integer NOT NULL)`,
		`CREATE TABLE scorings (batch_id text NOT NULL, caller text NOT NULL)`,
	}
	if o.guard == withNone {
		// The incident's outbox: events have ids of their own, and nothing else is unique.
		statements = append(statements, `CREATE TABLE event_outbox (event_id text PRIMARY KEY, aggregate_id text NOT NULL, event_type text NOT NULL, payload text NOT NULL, created_at text NOT NULL, published_at text)`)
	}
	for _, statement := range statements {
		if _, err := s.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	if o.guard == withEndstate {
		finalizer, err := newGuarded(s, o, nil, nil)
		if err != nil {
			return err
		}
		if err := finalizer.fin.Migrate(ctx); err != nil {
			return err
		}
	}
	tx, err := s.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for n := range o.batches {
		if _, err := tx.ExecContext(ctx, s.sql(`INSERT INTO batches VALUES ($1, 'PERFORMING_COMPARISONS', $2, 0, 0)`), batchID(n), o.comparisons); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func (s *store) drop(ctx context.Context) error {
	if !s.postgres {
		return nil // the folder goes
	}
	_, err := s.ExecContext(ctx, "DROP SCHEMA IF EXISTS "+s.schema+" CASCADE")
	return err
}

func batchID(n int) string { return fmt.Sprintf("batch-%03d", n+1) }

// querier is a *sql.Tx or the store.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// progress is how far a batch is.
type progress struct{ comparisons, done, failed int }

// ready is the service's rule: enough is done, or no work is left.
func (p progress) ready(thresholdPercent int) bool {
	return p.done*100 >= p.comparisons*thresholdPercent || p.done+p.failed >= p.comparisons
}

func (s *store) progress(ctx context.Context, q querier, id string) (p progress, err error) {
	err = q.QueryRowContext(ctx, s.sql(`SELECT comparisons, done, failed FROM batches WHERE id = $1`), id).Scan(&p.comparisons, &p.done, &p.failed)
	return p, err
}

// openBatches lists the batches that a monitor takes for unfinished.
func (s *store) openBatches(ctx context.Context) ([]string, error) {
	rows, err := s.QueryContext(ctx, `SELECT id FROM batches WHERE status = 'PERFORMING_COMPARISONS' ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}
