package main

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// snapshots are drains while a snapshot from before keeps every dead row, against the same without: what a long transaction
// elsewhere costs us, and what it costs the peers.
func (b *bencher) snapshots(r *riverPeer) []bcase {
	cases := []bcase{
		{name: "relay-old-snapshot", must: 0.8, ours: b.drain()},
		{name: "river-old-snapshot", ours: r.drain(drainEvents)},
		{name: "watermill-old-snapshot", ours: b.watermillDrain(drainEvents)},
	}
	for i, c := range cases {
		cases[i].peer, cases[i].long = "the same without the snapshot", true
		cases[i].ours, cases[i].theirs = b.beside(c.ours), c.ours
	}
	return cases
}

// beside does it beside an old snapshot, which has locked no table.
func (b *bencher) beside(do way) way {
	return func(ctx context.Context) (sample, error) {
		tx, err := b.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			return sample{}, err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		if _, err := tx.Exec(ctx, "SELECT pg_current_xact_id()"); err != nil {
			return sample{}, err
		}
		return do(ctx)
	}
}
