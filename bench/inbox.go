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

// inboxWorld is a consumer that books a credit for each event, by the library's inbox and by hand.
type inboxWorld struct {
	handler inbox.Handler
	repeat  outbox.Event // handled already, by both
}

func (b *bencher) prepareInbox(ctx context.Context) error {
	table, err := inbox.NewTable(b.pool, &inbox.TableConfig{Consumer: "entitlements", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if err := table.Migrate(ctx); err != nil {
		return err
	}
	_, err = b.pool.Exec(ctx, `CREATE TABLE seen (consumer text, event_id uuid, handled_at timestamptz NOT NULL, PRIMARY KEY (consumer, event_id));
CREATE TABLE credits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, batch text NOT NULL, credits int NOT NULL)`)
	if err != nil {
		return err
	}
	b.inbox = inboxWorld{handler: inbox.Handle(table, credit), repeat: delivered(0)}
	if err := b.applied(ctx, b.inbox.repeat, inbox.Applied); err != nil {
		return err
	}
	return b.handInbox(ctx, b.inbox.repeat, true)
}

func (b *bencher) inboxCases() []bcase {
	repeated := func(context.Context, int64) error {
		return b.applied(context.Background(), b.inbox.repeat, inbox.Repeated)
	}
	return []bcase{
		{name: "inbox/handle-vs-on-conflict", peer: "begin, insert on conflict, effect, commit", must: ">= 0.85", workers: connections, rows: rows,
			ours:   func(ctx context.Context, n int64) error { return b.applied(ctx, delivered(n), inbox.Applied) },
			theirs: func(ctx context.Context, n int64) error { return b.handInbox(ctx, delivered(n), true) }},
		{name: "inbox/handle-vs-pipelined", peer: "the same, begin and insert in one trip", workers: connections, rows: rows,
			ours:   func(ctx context.Context, n int64) error { return b.applied(ctx, delivered(n), inbox.Applied) },
			theirs: func(ctx context.Context, n int64) error { return b.handInboxPipelined(ctx, delivered(n)) }},
		{name: "inbox/repeat-vs-on-conflict", peer: "begin, insert on conflict, rollback", workers: connections, rows: finalRows, final: true,
			ours:   repeated,
			theirs: func(ctx context.Context, _ int64) error { return b.handInbox(ctx, b.inbox.repeat, false) }},
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

func (b *bencher) applied(ctx context.Context, e outbox.Event, want inbox.Outcome) error {
	r, err := b.inbox.handler(ctx, e)
	if err == nil && r.Outcome != want {
		return errLost
	}
	return err
}

// What a careful user writes by hand. It tells neither payloads apart nor counts failures.

const insertSeen = `INSERT INTO seen (consumer, event_id, handled_at) VALUES ('entitlements', $1, now()) ON CONFLICT DO NOTHING`

func (b *bencher) handInbox(ctx context.Context, e outbox.Event, first bool) error {
	tx, err := b.pool.Begin(ctx)
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

func (b *bencher) handInboxPipelined(ctx context.Context, e outbox.Event) error {
	return b.pipelined(ctx, insertSeen, []any{e.ID}, func(batch *pgx.Batch) { batch.Queue(insertCredit, e.AggregateID) })
}
