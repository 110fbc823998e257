package console

import (
	"context"
	"database/sql"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox/audit"
)

// database is a pgx pool, or database/sql.
type database struct {
	pool    *pgxpool.Pool // one of the two
	sql     *sql.DB
	dialect sqltx.Dialect
}

// reading begins a transaction that only reads, by indexes whatever statistics say, and not for long.
const reading = `SET LOCAL statement_timeout = '10s'; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL jit = off`

// read has read run in such a transaction.
func (d database) read(ctx context.Context, read func(q endstate.Querier) error) error {
	end := func(rollback func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = rollback(ctx) // it has only read
	}
	if d.pool != nil {
		tx, err := d.pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; " + reading})
		if err != nil {
			return err
		}
		defer end(tx.Rollback)
		return read(tx)
	}
	tx, err := d.sql.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer end(func(context.Context) error { return tx.Rollback() })
	if d.dialect == sqltx.Postgres {
		if _, err := tx.ExecContext(ctx, reading); err != nil {
			return err
		}
	}
	return read(sqltx.Wrap(tx, d.dialect))
}

// has reports whether there is a table.
func (d database) has(ctx context.Context, q endstate.Querier, schema, table string) (bool, error) {
	query, args := "SELECT to_regclass($1::text) IS NOT NULL", []any{sqltx.Quote(schema, table)}
	if d.dialect == sqltx.SQLite {
		query, args = "SELECT EXISTS (SELECT 1 FROM pragma_table_info(?1))", []any{table}
	}
	var there bool
	err := q.QueryRow(ctx, query, args...).Scan(&there)
	return there, err
}

// audit counts duplicates.
func (d database) audit(ctx context.Context, cfg audit.Config) (*audit.Report, error) {
	if d.pool != nil {
		return audit.Run(ctx, d.pool, cfg)
	}
	return audit.RunSQL(ctx, d.sql, cfg)
}
