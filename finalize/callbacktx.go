package finalize

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// callbackTx is the pgx.Tx that callbacks and guards get: the session's transaction, which only the session may end, and
// which refuses to work once it has, since its connection then belongs to others.
type callbackTx struct {
	tx     pgx.Tx
	closed *atomic.Bool
	nested bool
}

var _ pgx.Tx = (*callbackTx)(nil)

func newCallbackTx(tx pgx.Tx) *callbackTx { return &callbackTx{tx: tx, closed: new(atomic.Bool)} }

// Begin starts a savepoint, which the callback may end as any pgx transaction.
func (t *callbackTx) Begin(ctx context.Context) (pgx.Tx, error) {
	if t.closed.Load() {
		return nil, pgx.ErrTxClosed
	}
	tx, err := t.tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &callbackTx{tx, t.closed, true}, nil
}

func (t *callbackTx) Commit(ctx context.Context) error   { return t.end(ctx, t.tx.Commit) }
func (t *callbackTx) Rollback(ctx context.Context) error { return t.end(ctx, t.tx.Rollback) }

func (t *callbackTx) end(ctx context.Context, end func(context.Context) error) error {
	switch {
	case t.closed.Load():
		return pgx.ErrTxClosed
	case !t.nested:
		return ErrTxOwned
	}
	return end(ctx)
}

func (t *callbackTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if t.closed.Load() {
		return pgconn.CommandTag{}, pgx.ErrTxClosed
	}
	return t.tx.Exec(ctx, sql, args...)
}

func (t *callbackTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if t.closed.Load() {
		return closedRows{}, pgx.ErrTxClosed
	}
	return t.tx.Query(ctx, sql, args...)
}

func (t *callbackTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if t.closed.Load() {
		return closedRows{}
	}
	return t.tx.QueryRow(ctx, sql, args...)
}

func (t *callbackTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	if t.closed.Load() {
		return 0, pgx.ErrTxClosed
	}
	return t.tx.CopyFrom(ctx, table, columns, src)
}

func (t *callbackTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if t.closed.Load() {
		return pgx.FailedBatchResults(b, pgx.ErrTxClosed)
	}
	return t.tx.SendBatch(ctx, b)
}

func (t *callbackTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if t.closed.Load() {
		return nil, pgx.ErrTxClosed
	}
	return t.tx.Prepare(ctx, name, sql)
}

func (t *callbackTx) LargeObjects() pgx.LargeObjects {
	if t.closed.Load() {
		var b pgx.Batch
		b.BeginTx(pgx.TxOptions{})
		return pgx.FailedBatchResults(&b, pgx.ErrTxClosed).Tx().LargeObjects() // pgx's own closed transaction
	}
	return t.tx.LargeObjects()
}

func (t *callbackTx) Conn() *pgx.Conn { return t.tx.Conn() }

// closedRows is what a query after the end returns.
type closedRows struct{ pgx.Rows }

func (closedRows) Close()            {}
func (closedRows) Err() error        { return pgx.ErrTxClosed }
func (closedRows) Next() bool        { return false }
func (closedRows) Scan(...any) error { return pgx.ErrTxClosed }
