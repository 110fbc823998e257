package relay_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// What is no ratio, and so not in bench: go test -run '^$' -bench . -benchtime 1x ./outbox/relay

// benchDatabase is a database with an outbox on a server of its own, with autovacuum.
func benchDatabase(b *testing.B) *database {
	server := dbtest.StartPostgres(b, "shared_buffers=512MB", "autovacuum_naptime=1s", "max_wal_size=4GB")
	db := on(b, server.URL())
	db.In(b, func(ctx context.Context, tx endstate.Tx) { require.NoError(b, writer.Migrate(ctx, tx)) })
	return db
}

// From a commit's return to the publisher's call, on an idle system, with LISTEN.
func BenchmarkWakeUp(b *testing.B) {
	db := benchDatabase(b)
	called := make(chan time.Time, 1)
	rel, err := relay.New(db.Pool, outbox.PublisherFunc(func(context.Context, outbox.Event) error {
		called <- time.Now()
		return nil
	}), &relay.Config{ListenURL: db.URL, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	run(b, rel)
	notifier, err := relay.NewNotifier(db.Pool, nil)
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- notifier.Run(ctx) }()
	defer func() { cancel(); require.NoError(b, <-done) }()
	for b.Loop() {
		var took []time.Duration
		for i := range 520 {
			time.Sleep(time.Duration(20+i%30) * time.Millisecond) // the system is idle
			db.Put(b, event("completed", ""))
			committed := time.Now()
			notifier.Wake()
			took = append(took, max(0, (<-called).Sub(committed))) // the publisher may be faster than the commit's reply
		}
		took = took[20:] // the first prepare statements
		slices.Sort(took)
		b.ReportMetric(took[len(took)/2].Seconds()*1000, "p50-ms")
		b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "p99-ms")
	}
}

// How many events a second one relay hands to a publisher that does nothing, while all stay in the table.
func BenchmarkDrain(b *testing.B) {
	const n = 200_000
	for b.Loop() {
		db := benchDatabase(b)
		db.Exec(b, fmt.Sprintf(`INSERT INTO endstate_outbox (partition, id, aggregate_type, aggregate_id, type, payload)
SELECT endstate_outbox_partition('batch', id::text), id, 'batch', id::text, 'completed', '{"batch":"b1","status":"COMPLETE"}' FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, %d)) e`, n))
		var left atomic.Int64
		left.Store(n)
		done := make(chan struct{})
		rel := db.relay(b, publisherFunc(func(_ context.Context, batch []outbox.Event) []error {
			if left.Add(-int64(len(batch))) == 0 {
				close(done)
			}
			return nil
		}), &relay.Config{Logger: slog.New(slog.DiscardHandler)})
		start := time.Now()
		stop := run(b, rel)
		<-done
		b.ReportMetric(n/time.Since(start).Seconds(), "events/s")
		stop()
	}
}
