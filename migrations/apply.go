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
// processes may call it at once, and beside programs at work: after a deadlock with one of them it tries again until ctx ends.
func Apply(ctx context.Context, pool *pgxpool.Pool, parts ...Part) error {
	if pool == nil {
		return fmt.Errorf("%w: pool is nil", ErrConfig)
	}
	return again(ctx, func() error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return apply(ctx, tx, parts) })
	})
}

// again runs a transaction again until ctx ends, as long as SQLite is busy, or a deadlock broke it off: programs that are running
// lock the tables in another order.
func again(ctx context.Context, transaction func() error) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 2*time.Millisecond, 250*time.Millisecond
	for {
		err := transaction()
		if !sqltx.Conflicted(err) || sleep.For(ctx, pause.NextBackOff()) != nil {
			return err
		}
	}
}

// ApplySQL is Apply on database/sql. Dialect is "postgres" or "sqlite", or empty for what the driver tells. Where SQLite is
// busy, too, it tries again until ctx ends.
func ApplySQL(ctx context.Context, db *sql.DB, dialect string, parts ...Part) error {
	d, err := sqltx.Choose(db, dialect)
	if err == nil && db == nil {
		err = errors.New("db is nil")
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return again(ctx, func() error { return applySQL(ctx, db, d, parts) })
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
