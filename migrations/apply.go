package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Apply makes the tables of parts (none: All), and their schemas, or brings them up to date, in one transaction. It accepts
// what a tool has run, and what is there already; where all is, it writes nothing and needs no right to. Any number of
// processes may call it at once.
func Apply(ctx context.Context, pool *pgxpool.Pool, parts ...Part) error {
	if pool == nil {
		return fmt.Errorf("%w: pool is nil", ErrConfig)
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return apply(ctx, tx, parts) })
}

// ApplySQL is Apply on database/sql. Dialect is "postgres" or "sqlite", or empty for what the driver tells. Where SQLite is
// busy it tries again until ctx ends.
func ApplySQL(ctx context.Context, db *sql.DB, dialect string, parts ...Part) error {
	d, err := sqltx.Choose(db, dialect)
	if err == nil && db == nil {
		err = errors.New("db is nil")
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 2*time.Millisecond, 250*time.Millisecond
	for {
		err := applySQL(ctx, db, d, parts)
		if !sqltx.Conflicted(err) || sleep.For(ctx, pause.NextBackOff()) != nil {
			return err
		}
	}
}

func applySQL(ctx context.Context, db *sql.DB, d sqltx.Dialect, parts []Part) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if err := apply(ctx, sqltx.Wrap(tx, d), parts); err != nil {
		return err
	}
	return tx.Commit()
}

func apply(ctx context.Context, tx endstate.Tx, parts []Part) error {
	if len(parts) == 0 {
		parts = All()
	}
	for _, part := range parts {
		if err := part.Migrate(ctx, tx); err != nil {
			return err
		}
	}
	return nil
}
