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
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/endstate-go/endstate"
)

// store is the service's database: a SQLite file, or a schema in PostgreSQL. Both go at the end.
type store struct {
	*sql.DB
	postgres bool
	dir      string
}

const schema = "payments_example"

func openStore(ctx context.Context, o options) (*store, error) {
	s := &store{postgres: o.db != ""}
	driver, dsn := "pgx", ""
	if s.postgres {
		u, err := url.Parse(o.db)
		if err != nil {
			return nil, errors.New("-db can't be parsed as a URL") // the error itself would show the password
		}
		query := u.Query()
		query.Set("search_path", schema)
		u.RawQuery = query.Encode()
		dsn = u.String()
	} else {
		var err error
		if s.dir, err = os.MkdirTemp("", "payments"); err != nil {
			return nil, err
		}
		driver, dsn = "sqlite", "file:"+filepath.Join(s.dir, "payments.db")+"?_pragma=busy_timeout(20000)&_pragma=journal_mode(wal)"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", driver, err), os.RemoveAll(s.dir))
	}
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16)
	s.DB = db
	if err := s.create(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *store) create(ctx context.Context) error {
	statements := []string{`CREATE TABLE payments (id bigint PRIMARY KEY, status text NOT NULL, cents bigint NOT NULL, expires_ms bigint NOT NULL)`}
	if s.postgres {
		statements = append([]string{"DROP SCHEMA IF EXISTS " + schema + " CASCADE", "CREATE SCHEMA " + schema}, statements...)
	}
	for _, statement := range statements {
		if _, err := s.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) close() error {
	var dropped error
	if s.postgres {
		_, dropped = s.ExecContext(context.Background(), "DROP SCHEMA IF EXISTS "+schema+" CASCADE")
	}
	err := errors.Join(dropped, s.Close())
	if s.dir != "" {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}

// sql writes a statement's placeholders as the database wants them.
func (s *store) sql(query string) string {
	if s.postgres {
		return query
	}
	return strings.ReplaceAll(query, "$", "?")
}

// open opens payments, 1 to n. The time of every third is over.
func (s *store) open(ctx context.Context, n int, now time.Time) error {
	tx, err := s.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for id := range n {
		expires := now.Add(time.Hour)
		if (id+1)%3 == 0 {
			expires = now.Add(-time.Minute)
		}
		if _, err := tx.ExecContext(ctx, s.sql(`INSERT INTO payments VALUES ($1, 'PENDING', $2, $3)`), id+1, 100*(id+1), expires.UnixMilli()); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// expires is when a payment is to be given up.
func (s *store) expires(ctx context.Context, tx *sql.Tx, id int64) (time.Time, error) {
	var ms int64
	err := tx.QueryRowContext(ctx, s.sql(`SELECT expires_ms FROM payments WHERE id = $1`), id).Scan(&ms)
	return time.UnixMilli(ms), err
}

// inTx runs fn in a transaction of its own.
func (s *store) inTx(ctx context.Context, fn func(endstate.Tx) error) error {
	tx, err := s.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	wrap := endstate.SQLiteTx
	if s.postgres {
		wrap = endstate.PostgresTx
	}
	if err := fn(wrap(tx)); err != nil {
		return err
	}
	return tx.Commit()
}
