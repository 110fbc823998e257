package endstate

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// Querier runs statements. A *pgxpool.Pool, a *pgx.Conn and every Tx is one. One that reads needn't be in a transaction.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Tx is the caller's transaction, in which guards decide and events are put. Every pgx.Tx is one; a pool is none, since what
// runs on a pool commits at once. PostgresTx and SQLiteTx make one of a *sql.Tx. What is given a Tx never ends it.
type Tx interface {
	Querier
	Commit(ctx context.Context) error
	Rollback(ctx context.Context) error
}

// SQLTx is a *sql.Tx, or what an ORM has in its place: gorm's Statement.ConnPool, a *sqlx.Tx, ent's Tx. It must hand statements
// on as they are, which a bun.Tx doesn't: give its field Tx. A *sql.DB is none.
type SQLTx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	Commit() error
	Rollback() error
}

// PostgresTx makes a Tx of a *sql.Tx on PostgreSQL, through any driver.
func PostgresTx(tx SQLTx) Tx { return sqltx.Wrap(tx, sqltx.Postgres) }

// SQLiteTx makes a Tx of a *sql.Tx on SQLite, through any driver.
func SQLiteTx(tx SQLTx) Tx { return sqltx.Wrap(tx, sqltx.SQLite) }
