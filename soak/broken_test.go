package soak

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/finalize"
)

// The finalizers that are broken on purpose. The check has to notice each.
const (
	checkThenAct = "check, then act"
	blindRetry   = "blind retry after a lost acknowledgement"
)

// broken finalizes by hand, and wrongly.
type broken struct {
	pool *pgxpool.Pool
	how  string
}

func (b broken) call(ctx context.Context, _ *rand.Rand, r *record) {
	receipt, err := b.attempt(ctx, r)
	if b.how == blindRetry && errors.Is(err, finalize.ErrOutcomeUnknown) {
		receipt, err = b.attempt(ctx, r) // it may have committed, and is found final
	}
	r.told(receipt, err)
}

func (b broken) attempt(ctx context.Context, r *record) (receipt finalize.Receipt, err error) {
	tx, err := b.pool.Begin(ctx)
	if err != nil {
		return receipt, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	read := "SELECT status FROM batches WHERE id = $1 FOR NO KEY UPDATE"
	if b.how == checkThenAct {
		read = strings.TrimSuffix(read, " FOR NO KEY UPDATE")
	}
	if err := tx.QueryRow(ctx, read, r.Key).Scan(&receipt.State); err != nil || receipt.State != "PENDING" {
		return receipt, err
	}
	receipt.State = state(r.Call)
	batch := &pgx.Batch{}
	batch.Queue("UPDATE batches SET status = $1 WHERE id = $2", receipt.State, r.Key)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return receipt, err
	}
	receipt.Won = true
	return receipt, commit(ctx, tx)
}
