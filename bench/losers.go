package main

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// losers are the cases of calls for an aggregate that is final.
func (b *bencher) losers() []bcase {
	many := load{workers: connections, rows: finalRows, final: true}
	single := load{workers: 1, rows: finalRows, final: true}
	known := load{workers: connections, rows: 1000, final: true, step: 256}
	cases := []bcase{
		{name: "loser-cached-vs-select", peer: "indexed SELECT", must: 50,
			ours: b.each(known, b.do(b.status, false)), theirs: b.each(many, b.handSelect)},
		{name: "loser-settle-vs-river", peer: "begin, update of 0 rows, rollback, as River's users write it", must: 1.6,
			ours: b.each(many, b.settle(b.status, false)), theirs: b.each(many, b.handLoses)},
		{name: "loser-do-vs-river", peer: "begin, update of 0 rows, rollback, as River's users write it", must: 1.1,
			ours: b.each(many, b.do(b.status, false)), theirs: b.each(many, b.handLoses)},
		// One after the other, so that the ratio is that of the times they take.
		{name: "loser-settle-vs-select", peer: "indexed SELECT, one after the other", must: 1 / 1.4,
			ours: b.each(single, b.settle(b.alone[byStatus], false)), theirs: b.each(single, b.handSelect)},
		{name: "loser-do-vs-select", peer: "indexed SELECT, one after the other", must: 1 / 2.3,
			ours: b.each(single, b.do(b.alone[byStatus], false)), theirs: b.each(single, b.handSelect)},
	}
	if b.quick {
		return cases
	}
	for _, name := range []string{byStatus, byLedger, byBoth} {
		cases = append(cases,
			bcase{name: name + "/saturated-loser-settle-vs-select", peer: "indexed SELECT",
				ours: b.each(many, b.settle(b.alone[name], false)), theirs: b.each(many, b.handSelect)},
			bcase{name: name + "/saturated-loser-do-vs-select", peer: "indexed SELECT",
				ours: b.each(many, b.do(b.alone[name], false)), theirs: b.each(many, b.handSelect)})
	}
	return cases
}

// handLoses is what a user of River writes, whose job goes in only if the status could be changed.
func (b *bencher) handLoses(ctx context.Context, n int64) error {
	err := pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE batches SET status = $2 WHERE id = $1 AND `+open, b.id(n), state)
		if err == nil && tag.RowsAffected() == 0 {
			return errTold
		}
		return err
	})
	if errors.Is(err, errTold) {
		return nil
	}
	return errors.Join(errLost, err)
}

var errTold = errors.New("somebody else was first")
