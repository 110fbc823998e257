package main

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// settles are the winners' cases.
func (b *bencher) settles() []bcase {
	eight := b.eight()
	thousand := load{workers: 1, rows: 40 * putSize, keys: putSize}
	cases := []bcase{
		{name: "settle-vs-one-statement", peer: "one statement by hand", must: 1,
			ours: b.each(eight, b.settle(b.status, true)), theirs: b.each(eight, b.handStatusStatement)},
		{name: "do-vs-pipelined", peer: "pipelined by hand", must: 0.98,
			ours: b.each(eight, b.do(b.status, true)), theirs: b.each(eight, b.handStatusPipelined)},
		{name: "do-vs-one-by-one", peer: "begin, select for update, update, insert, commit", must: 1.30,
			ours: b.each(eight, b.do(b.status, true)), theirs: b.each(eight, b.handOneByOne)},
		{name: "put-1000-vs-unnest", peer: "one unnest insert by hand", must: 1,
			ours: b.each(thousand, b.put(putSize)), theirs: b.each(thousand, b.handPut)},
		{name: "put-1-vs-insert", peer: "one insert by hand, in a transaction", must: 1,
			ours: b.each(eight, b.put(1)), theirs: b.each(eight, b.handPutOne)},
		{name: "alone/settle-vs-one-statement", peer: "one statement by hand",
			ours: b.each(eight, b.settle(b.alone[byStatus], true)), theirs: b.each(eight, b.handStatusStatement)},
	}
	if b.quick {
		return cases
	}
	for _, g := range []struct {
		name       string
		one, piped one
	}{{byLedger, b.handLedgerStatement, b.handLedgerPipelined}, {byBoth, b.handAllStatement, b.handAllPipelined}} {
		cases = append(cases,
			bcase{name: g.name + "/settle-vs-one-statement", peer: "one statement by hand", must: 0.95,
				ours: b.each(eight, b.settle(b.alone[g.name], true)), theirs: b.each(eight, g.one)},
			bcase{name: g.name + "/do-vs-pipelined", peer: "pipelined by hand",
				ours: b.each(eight, b.do(b.alone[g.name], true)), theirs: b.each(eight, g.piped)})
	}
	return cases
}

func (b *bencher) settle(fin *finalizer, win bool) one {
	return func(ctx context.Context, n int64) error {
		r, err := fin.Settle(ctx, guard.Int(b.id(n)), "bench", outcome())
		return check(r, err, win)
	}
}

func (b *bencher) do(fin *finalizer, win bool) one {
	return func(ctx context.Context, n int64) error {
		r, err := fin.Do(ctx, guard.Int(b.id(n)), "bench", func(context.Context, pgx.Tx) (finalize.Outcome, error) { return outcome(), nil })
		return check(r, err, win)
	}
}

func check(r finalize.Receipt, err error, win bool) error {
	if err == nil && r.Won != win {
		return errLost
	}
	return err
}
