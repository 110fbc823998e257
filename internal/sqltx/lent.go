package sqltx

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Lent is the pgx.Tx that callbacks get: a transaction which only its owner may end, and which refuses to work once that has
// called Close, since its connection then belongs to others.
type Lent struct {
	tx    pgx.Tx
	loan  *loan
	owned error // what Commit and Rollback return; nil for a savepoint, which its beginner may end
}

// loan is what a transaction and its savepoints share.
type loan struct {
	closed atomic.Bool
	used   atomic.Int64 // when, in nanoseconds
}

var _ pgx.Tx = (*Lent)(nil)

// Lend lends a transaction to a callback. owned is the error that its Commit and Rollback return.
func Lend(tx pgx.Tx, owned error) *Lent {
	one := new(struct {
		Lent
		own loan
	})
	one.Lent = Lent{tx: tx, loan: &one.own, owned: owned}
	one.use()
	return &one.Lent
}

// LastUse is when the transaction was last used.
func (t *Lent) LastUse() time.Time { return time.Unix(0, t.loan.used.Load()) }

func (t *Lent) use() { t.loan.used.Store(time.Now().UnixNano()) }

// Close takes the transaction back.
func (t *Lent) Close() { t.loan.closed.Store(true) }

// Owner returns the transaction itself.
func (t *Lent) Owner() pgx.Tx { return t.tx }

// Begin starts a savepoint, which the callback may end as any pgx transaction.
func (t *Lent) Begin(ctx context.Context) (pgx.Tx, error) {
	if t.loan.closed.Load() {
		return nil, pgx.ErrTxClosed
	}
	t.use()
	defer t.use()
	tx, err := t.tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &Lent{tx: tx, loan: t.loan}, nil
}

func (t *Lent) Commit(ctx context.Context) error   { return t.end(ctx, t.tx.Commit) }
func (t *Lent) Rollback(ctx context.Context) error { return t.end(ctx, t.tx.Rollback) }

func (t *Lent) end(ctx context.Context, end func(context.Context) error) error {
	switch {
	case t.loan.closed.Load():
		return pgx.ErrTxClosed
	case t.owned != nil:
		return t.owned
	}
	return end(ctx)
}

func (t *Lent) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if t.loan.closed.Load() {
		return pgconn.CommandTag{}, pgx.ErrTxClosed
	}
	t.use()
	defer t.use()
	return t.tx.Exec(ctx, sql, args...)
}

func (t *Lent) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if t.loan.closed.Load() {
		return closedRows{}, pgx.ErrTxClosed
	}
	t.use()
	defer t.use()
	return t.tx.Query(ctx, sql, args...)
}

func (t *Lent) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if t.loan.closed.Load() {
		return closedRows{}
	}
	t.use()
	defer t.use()
	return t.tx.QueryRow(ctx, sql, args...)
}

func (t *Lent) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	if t.loan.closed.Load() {
		return 0, pgx.ErrTxClosed
	}
	t.use()
	defer t.use()
	return t.tx.CopyFrom(ctx, table, columns, src)
}

func (t *Lent) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if t.loan.closed.Load() {
		return pgx.FailedBatchResults(b, pgx.ErrTxClosed)
	}
	t.use()
	defer t.use()
	return t.tx.SendBatch(ctx, b)
}

func (t *Lent) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if t.loan.closed.Load() {
		return nil, pgx.ErrTxClosed
	}
	t.use()
	defer t.use()
	return t.tx.Prepare(ctx, name, sql)
}

func (t *Lent) LargeObjects() pgx.LargeObjects {
	if t.loan.closed.Load() {
		var b pgx.Batch
		b.BeginTx(pgx.TxOptions{})
		return pgx.FailedBatchResults(&b, pgx.ErrTxClosed).Tx().LargeObjects() // pgx's own closed transaction
	}
	return t.tx.LargeObjects()
}

func (t *Lent) Conn() *pgx.Conn { return t.tx.Conn() }

// closedRows is what a query after the end returns.
type closedRows struct{ pgx.Rows }

func (closedRows) Close()            {}
func (closedRows) Err() error        { return pgx.ErrTxClosed }
func (closedRows) Next() bool        { return false }
func (closedRows) Scan(...any) error { return pgx.ErrTxClosed }
