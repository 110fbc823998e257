package sqltx

import (
	"context"
	"database/sql"
)

// Begin begins a transaction whose life is apart from ctx: database/sql would otherwise roll back from another goroutine when ctx
// ends, and break a COMMIT off without a word on what became of it. The BEGIN itself ends with ctx. End breaks off whatever the
// transaction is at, such as a COMMIT that gets no answer, and is to be called once it is over.
func Begin(ctx context.Context, conn *sql.Conn, opts *sql.TxOptions) (tx *sql.Tx, end context.CancelFunc, err error) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	tx, err = conn.BeginTx(life, opts)
	if !stop() && err == nil { // it came too late, and is being rolled back
		_ = tx.Rollback()
		err = context.Cause(ctx)
	}
	if err != nil {
		end()
		return nil, nil, err
	}
	return tx, end, nil
}
