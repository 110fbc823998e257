package main

import (
	"context"
	"log/slog"
	"strconv"

	"github.com/google/uuid"

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
	if err := b.all(ctx, seenTable, `CREATE TABLE credits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, batch text NOT NULL, credits int NOT NULL)`); err != nil {
		return nil, err
	}
	p := &inboxPair{b, inbox.Handle(table, credit), delivered(0)}
	if err := p.applied(ctx, p.repeat, inbox.Applied); err != nil {
		return nil, err
	}
	return p, p.handleByHand(ctx, recordSeen, recorded(p.repeat), p.repeat, true)
}

func (p *inboxPair) cases() []bcase {
	if p.quick {
		return nil
	}
	eight, again := p.eight(), load{workers: connections, rows: finalRows, final: true}
	first := p.each(eight, func(ctx context.Context, n int64) error { return p.applied(ctx, delivered(n), inbox.Applied) })
	repeat := p.each(again, func(ctx context.Context, _ int64) error { return p.applied(ctx, p.repeat, inbox.Repeated) })
	return []bcase{
		{name: "inbox/handle-vs-by-hand", peer: "begin, insert on conflict, effect, commit", must: 1,
			ours: first,
			theirs: p.each(eight, func(ctx context.Context, n int64) error {
				e := delivered(n)
				return p.handleByHand(ctx, recordSeen, recorded(e), e, true)
			})},
		{name: "inbox/handle-vs-pipelined", peer: "the same, begin and insert in one trip",
			ours:   first,
			theirs: p.each(eight, func(ctx context.Context, n int64) error { return p.handlePipelined(ctx, delivered(n)) })},
		{name: "inbox/handle-vs-bare-table", peer: "begin, insert on conflict into a table of ids alone, effect, commit",
			ours: first,
			theirs: p.each(eight, func(ctx context.Context, n int64) error {
				e := delivered(n)
				return p.handleByHand(ctx, insertSeen, seen(e), e, true)
			})},
		{name: "inbox/repeat-vs-by-hand", peer: "begin, insert on conflict, rollback",
			ours: repeat,
			theirs: p.each(again, func(ctx context.Context, _ int64) error {
				return p.handleByHand(ctx, recordSeen, recorded(p.repeat), p.repeat, false)
			})},
		{name: "inbox/repeat-vs-select", peer: "indexed SELECT",
			ours:   repeat,
			theirs: p.each(again, func(ctx context.Context, _ int64) error { return p.repeatByHand(ctx) })},
	}
}

// delivered is an event as it arrives at the consumer.
func delivered(n int64) outbox.Event {
	id, err := uuid.NewV7()
	if err != nil {
		panic(err) // the system has no randomness
	}
	return outbox.Event{ID: id, AggregateType: "batch", AggregateID: strconv.FormatInt(n, 10), Type: eventType, Payload: payload(),
		Headers: map[string]string{"traceparent": traceparent}}
}

func (p *inboxPair) applied(ctx context.Context, e outbox.Event, want inbox.Outcome) error {
	r, err := p.handler(ctx, e)
	if err == nil && r.Outcome != want {
		return errLost
	}
	return err
}
