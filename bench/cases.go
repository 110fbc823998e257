package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

const (
	rows      = 40_000
	finalRows = 100_000
	state     = "COMPLETE_STABLE"
	eventType = "assessment.completed"
)

var errLost = errors.New("an open aggregate was lost, or a final one won")

func payload() []byte { return []byte(`{"batch":"b","status":"COMPLETE_STABLE","essays":42}`) }

func outcome() finalize.Outcome {
	return finalize.Outcome{State: state, Events: []outbox.Event{{Type: eventType, Payload: payload()}}}
}

func (b *bencher) cases() []bcase {
	var cases []bcase
	for _, g := range []struct {
		name    string
		fin     *finalize.Finalizer[pgx.Tx]
		one     one
		piped   one
		settleM string
		doM     string
	}{
		{"status", b.status, b.handStatusStatement, b.handStatusPipelined, ">= 0.90", ">= 0.90"},
		{"ledger", b.ledger, b.handLedgerStatement, b.handLedgerPipelined, "", ""},
		{"all", b.all, b.handAllStatement, b.handAllPipelined, "", ""},
	} {
		cases = append(cases,
			bcase{name: g.name + "/settle-vs-one-statement", peer: "one statement by hand", must: g.settleM, workers: connections, rows: rows,
				ours: b.settle(g.fin, true), theirs: g.one},
			bcase{name: g.name + "/do-vs-pipelined", peer: "pipelined by hand", must: g.doM, workers: connections, rows: rows,
				ours: b.do(g.fin, true), theirs: g.piped},
			bcase{name: g.name + "/loser-do-vs-select", peer: "indexed SELECT", must: loserMust(g.name, ">= 0.43 (2.3 x its time)"), workers: connections, rows: finalRows, final: true,
				ours: b.do(g.fin, false), theirs: b.handSelect},
			bcase{name: g.name + "/loser-settle-vs-select", peer: "indexed SELECT", must: loserMust(g.name, ">= 0.71 (1.4 x its time)"), workers: connections, rows: finalRows, final: true,
				ours: b.settle(g.fin, false), theirs: b.handSelect},
		)
	}
	cases = append(cases, b.inboxCases()...)
	return append(cases,
		bcase{name: "status/do-vs-one-by-one", peer: "begin, lock, update, insert, commit", must: ">= 1.25", workers: connections, rows: rows,
			ours: b.do(b.status, true), theirs: b.handOneByOne},
		bcase{name: "put-1000-vs-unnest", peer: "one unnest insert by hand", must: ">= 0.80", workers: 1, rows: rows,
			ours: b.put, theirs: b.handPut},
	)
}

func loserMust(guard, must string) string {
	if guard == "status" {
		return must
	}
	return ""
}

func (b *bencher) settle(fin *finalize.Finalizer[pgx.Tx], win bool) one {
	return func(ctx context.Context, n int64) error {
		r, err := fin.Settle(ctx, guard.Int(n), "bench", outcome())
		return check(r, err, win)
	}
}

func (b *bencher) do(fin *finalize.Finalizer[pgx.Tx], win bool) one {
	return func(ctx context.Context, n int64) error {
		r, err := fin.Do(ctx, guard.Int(n), "bench", func(context.Context, pgx.Tx) (finalize.Outcome, error) { return outcome(), nil })
		return check(r, err, win)
	}
}

func check(r finalize.Receipt, err error, win bool) error {
	if err == nil && r.Won != win {
		return errLost
	}
	return err
}

const putSize = 1000

func (b *bencher) put(ctx context.Context, n int64) error {
	return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		events := make([]outbox.Event, putSize)
		for i := range events {
			events[i] = outbox.Event{AggregateType: "batch", AggregateID: fmt.Sprint(n), Type: eventType, Payload: payload(), DedupKey: fmt.Sprint(n, "/", i)}
		}
		results, err := outbox.Put(ctx, tx, events...)
		if err == nil && !results[putSize-1].Inserted {
			return errLost
		}
		return err
	})
}
