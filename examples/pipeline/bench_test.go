package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/natsjs"
	"github.com/endstate-go/endstate/outbox/relay"
)

// enough passes batches on, or to nowhere, until there were so many events.
type enough struct {
	outbox.Publisher // nil: nowhere
	left             int
	done             func()
}

func (p *enough) Publish(ctx context.Context, batch []outbox.Event) (errs []error) {
	if p.Publisher != nil {
		errs = p.Publisher.Publish(ctx, batch)
	}
	if errs == nil {
		if p.left -= len(batch); p.left <= 0 {
			p.done()
		}
	}
	return errs
}

// inOrder is enough before a publisher that keeps a batch's order.
type inOrder struct{ *enough }

func (inOrder) KeepsOrder() bool { return true }

// A relay drains an outbox in SQLite to nowhere, to JetStream with its files, and to kfake, all in this process.
func BenchmarkRelay(b *testing.B) {
	const events = 20_000
	w, err := newWorld(b.Context(), options{batches: 1, duplicates: 1})
	require.NoError(b, err)
	defer func() { require.NoError(b, w.close()) }()
	tx, err := w.db.BeginTx(b.Context(), nil)
	require.NoError(b, err)
	for i := 0; i < events; i += 1000 {
		batch := make([]outbox.Event, 1000)
		for n := range batch {
			batch[n] = outbox.Event{AggregateType: "batch", AggregateID: fmt.Sprint(n % 200), Type: "assessment.completed", Payload: []byte(`{"score": 1}`)}
		}
		_, err := outbox.Put(b.Context(), endstate.SQLiteTx(tx), batch...)
		require.NoError(b, err)
	}
	require.NoError(b, tx.Commit())
	jet, err := natsjs.New(w.conn, &natsjs.Config{Stream: "EVENTS"})
	require.NoError(b, err)

	run := 0
	for _, to := range []struct {
		name      string
		publisher outbox.Publisher
	}{{"nowhere", nil}, {"nats", jet}, {"kfake", w.client}} {
		b.Run(to.name, func(b *testing.B) {
			for range b.N {
				run++
				ctx, cancel := context.WithCancel(b.Context())
				counting := &enough{Publisher: to.publisher, left: events, done: cancel}
				var publisher outbox.Publisher = counting
				if _, ordered := to.publisher.(outbox.Ordered); ordered || to.publisher == nil {
					publisher = inOrder{counting}
				}
				r, err := relay.NewSQL(w.db, publisher, &relay.Config{Subscription: fmt.Sprint(to.name, run), Logger: w.logger})
				require.NoError(b, err)
				require.NoError(b, r.Run(ctx))
				require.LessOrEqual(b, counting.left, 0)
			}
			b.ReportMetric(float64(events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
