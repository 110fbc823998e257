package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
)

// dbosPeer finalizes by a durable workflow of DBOS with one transactional step. The workflow's id is the aggregate's, so
// that it runs once. DBOS keeps its tables in the same database.
type dbosPeer struct {
	*bencher
	ctx    dbos.Context
	source *dbos.DataSource
}

func newDBOS(ctx context.Context, b *bencher) (*dbosPeer, error) {
	c, err := dbos.NewContext(ctx, dbos.Config{AppName: "bench", SystemDBPool: b.pool, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("dbos: %w", err)
	}
	p := &dbosPeer{bencher: b, ctx: c}
	if p.source, err = dbos.NewDataSource(c, b.pool); err != nil {
		return nil, fmt.Errorf("dbos: %w", err)
	}
	dbos.RegisterWorkflow(c, p.workflow)
	if err := dbos.Launch(c); err != nil {
		return nil, fmt.Errorf("dbos: %w", err)
	}
	return p, nil
}

func (p *dbosPeer) close() error { return dbos.Shutdown(p.ctx, 5*time.Second) }

func (p *dbosPeer) workflow(ctx dbos.Context, id int64) (string, error) {
	return dbos.RunAsTransaction(ctx, p.source, func(ctx context.Context, tx dbos.Tx) (string, error) {
		tag, err := tx.Exec(ctx, `UPDATE batches SET status = $2 WHERE id = $1 AND `+open, id, state)
		if err != nil {
			return "", err
		}
		if n, err := tag.RowsAffected(); err != nil || n != 1 {
			return "", fmt.Errorf("%w: %w", errLost, err)
		}
		_, err = tx.Exec(ctx, insertEvent, eventArgs(id)...)
		return state, err
	})
}

func (p *dbosPeer) finalize(_ context.Context, n int64) error {
	handle, err := dbos.RunWorkflow(p.ctx, p.workflow, p.id(n), dbos.WithWorkflowID(fmt.Sprintf("batch/%d", p.id(n))))
	if err != nil {
		return err
	}
	_, err = handle.GetResult()
	return err
}
