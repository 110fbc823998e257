package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// inboxPair is a consumer that books a credit for each event, by the library's inbox and by hand.
type inboxPair struct {
	*bencher
	handler inbox.Handler
	repeat  outbox.Event // handled already, by both
}

func newInboxPair(ctx context.Context, b *bencher) (*inboxPair, error) {
	table, err := inbox.NewTable(b.pool, &inbox.TableConfig{Consumer: "entitlements", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	if err := table.Migrate(ctx); err != nil {
		return nil, err
	}
	_, err = b.pool.Exec(ctx, `CREATE TABLE seen (consumer text, event_id uuid, handled_at timestamptz NOT NULL, PRIMARY KEY (consumer, event_id));
CREATE TABLE credits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, batch text NOT NULL, credits int NOT NULL)`)
	if err != nil {
		return nil, err
	}
	p := &inboxPair{b, inbox.Handle(table, credit), delivered(0)}
	if err := p.applied(ctx, p.repeat, inbox.Applied); err != nil {
		return nil, err
	}
	return p, p.byHand(ctx, p.repeat, true)
}

func (p *inboxPair) cases() []bcase {
	if p.quick {
		return nil
	}
	first := func(ctx context.Context, n int64) error { return p.applied(ctx, delivered(n), inbox.Applied) }
	eight, again := p.eight(), load{workers: connections, rows: finalRows, final: true}
	return []bcase{
		{name: "inbox/handle-vs-on-conflict", peer: "begin, insert on conflict, effect, commit", must: 0.85,
			ours:   p.each(eight, first),
			theirs: p.each(eight, func(ctx context.Context, n int64) error { return p.byHand(ctx, delivered(n), true) })},
		{name: "inbox/handle-vs-pipelined", peer: "the same, begin and insert in one trip",
			ours:   p.each(eight, first),
			theirs: p.each(eight, func(ctx context.Context, n int64) error { return p.byHandPipelined(ctx, delivered(n)) })},
		{name: "inbox/repeat-vs-on-conflict", peer: "begin, insert on conflict, rollback",
			ours:   p.each(again, func(ctx context.Context, _ int64) error { return p.applied(ctx, p.repeat, inbox.Repeated) }),
			theirs: p.each(again, func(ctx context.Context, _ int64) error { return p.byHand(ctx, p.repeat, false) })},
	}
}

// delivered is an event as it arrives at the consumer.
func delivered(n int64) outbox.Event {
	id, err := uuid.NewV7()
	if err != nil {
		panic(err) // the system has no randomness
	}
	return outbox.Event{ID: id, AggregateType: "batch", AggregateID: fmt.Sprint(n), Type: eventType, Payload: payload()}
}

const insertCredit = `INSERT INTO credits (batch, credits) VALUES ($1, 5)`

func credit(ctx context.Context, tx pgx.Tx, e outbox.Event) error {
	_, err := tx.Exec(ctx, insertCredit, e.AggregateID)
	return err
}

func (p *inboxPair) applied(ctx context.Context, e outbox.Event, want inbox.Outcome) error {
	r, err := p.handler(ctx, e)
	if err == nil && r.Outcome != want {
		return errLost
	}
	return err
}

// What a careful user writes by hand. It tells neither payloads apart nor counts failures.

const insertSeen = `INSERT INTO seen (consumer, event_id, handled_at) VALUES ('entitlements', $1, now()) ON CONFLICT DO NOTHING`

func (p *inboxPair) byHand(ctx context.Context, e outbox.Event, first bool) error {
	tx, err := p.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	tag, err := tx.Exec(ctx, insertSeen, e.ID)
	if err != nil {
		return err
	}
	if (tag.RowsAffected() == 1) != first {
		return errLost
	}
	if !first {
		return tx.Rollback(ctx)
	}
	if err := credit(ctx, tx, e); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func (p *inboxPair) byHandPipelined(ctx context.Context, e outbox.Event) error {
	return p.pipelined(ctx, insertSeen, []any{e.ID}, func(batch *pgx.Batch) { batch.Queue(insertCredit, e.AggregateID) })
}
