package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

const connections = 8

// world is the database that both sides work on.
type world struct {
	pool                *pgxpool.Pool
	status, ledger, all *finalize.Finalizer[pgx.Tx]
	inbox               inboxWorld
}

func newBench(ctx context.Context, url string) (*bencher, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns, cfg.MinConns = connections, connections
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, "CREATE TABLE batches (id bigint PRIMARY KEY, status text NOT NULL)"); err != nil {
		return nil, err
	}
	b := &bencher{world: world{pool: pool}}
	byStatus := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")}
	for _, f := range []struct {
		fin   **finalize.Finalizer[pgx.Tx]
		guard guard.Guard
	}{{&b.status, byStatus}, {&b.ledger, guard.Ledger{}}, {&b.all, guard.All(byStatus, guard.Ledger{})}} {
		*f.fin, err = finalize.New(pool, &finalize.Config{Aggregate: "batch", Guard: f.guard, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, err
		}
	}
	if err := b.all.Migrate(ctx); err != nil {
		return nil, err
	}
	return b, b.prepareInbox(ctx)
}

// reset makes the aggregates of a slice: open ones, or ones that both sides find final.
func (b *bencher) reset(ctx context.Context, c bcase) error {
	state := "PENDING"
	if c.final {
		state = "COMPLETE_STABLE"
	}
	statements := []string{
		"TRUNCATE batches, endstate_outbox, endstate_ledger",
		// Some history, lest the planner take the tables for empty ones and scan them.
		`INSERT INTO endstate_ledger SELECT 'other', 'i:' || n, 'COMPLETE', 'bench', gen_random_uuid(), NULL, now() FROM generate_series(1, 10000) n`,
		fmt.Sprintf("INSERT INTO batches SELECT n, '%s' FROM generate_series(1, %d) n", state, c.rows),
	}
	if c.final {
		statements = append(statements, fmt.Sprintf(
			`INSERT INTO endstate_ledger SELECT 'batch', 'i:' || n, '%s', 'bench', gen_random_uuid(), NULL, now() FROM generate_series(1, %d) n`, state, c.rows))
	}
	for _, s := range append(statements, "VACUUM ANALYZE batches, endstate_ledger, endstate_outbox", "CHECKPOINT") {
		if _, err := b.pool.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}
