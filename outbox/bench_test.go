package outbox_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// What is no ratio, and so not in bench: go test -run '^$' -bench . -benchtime 1x ./outbox

// benchDatabase is a database with an outbox on a server of its own, with autovacuum.
func benchDatabase(b *testing.B) *database {
	server := dbtest.StartPostgres(b, "shared_buffers=512MB", "autovacuum_naptime=1s", "max_wal_size=4GB")
	pool := dbtest.PoolOn(b, server.URL())
	db := &database{url: server.URL(), pool: pool, begin: beginPgx(pool)}
	db.in(b, func(ctx context.Context, tx endstate.Tx) { require.NoError(b, writer.Migrate(ctx, tx)) })
	return db
}

// pending makes n pending events, each of an aggregate of its own.
func (db *database) pending(b *testing.B, n int) {
	db.exec(b, fmt.Sprintf(`INSERT INTO endstate_outbox (id, aggregate_type, aggregate_id, shard, type, payload, content_type, headers, occurred_at, schema_version)
SELECT id, 'batch', id::text, get_byte(sha256(convert_to('batch/' || id::text, 'UTF8')), 0) %% 64, 'completed', '{"batch":"b1","status":"COMPLETE"}', 'application/json', '{}', clock_timestamp(), 1
FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, %d)) e`, n))
}

// From a commit's return to the publisher's call, on an idle system, with LISTEN.
func BenchmarkWakeUp(b *testing.B) {
	db := benchDatabase(b)
	called := make(chan time.Time, 1)
	relay, err := outbox.NewRelay(db.pool, outbox.PublisherFunc(func(context.Context, outbox.Event) error {
		called <- time.Now()
		return nil
	}), &outbox.RelayConfig{ListenURL: db.url, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	run(b, relay)
	notifier, err := outbox.NewNotifier(db.pool, nil)
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- notifier.Run(ctx) }()
	defer func() { cancel(); require.NoError(b, <-done) }()
	for b.Loop() {
		var took []time.Duration
		for i := range 520 {
			time.Sleep(time.Duration(20+i%30) * time.Millisecond) // the system is idle
			db.put(b, event("completed", ""))
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

// The size of an outbox that deletes what it published, after ten runs, as a multiple of that after the first.
func BenchmarkGrowth(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		db := benchDatabase(b)
		var left atomic.Int64
		run(b, db.relay(b, publisherFunc(func(_ context.Context, batch []outbox.Event) []error {
			left.Add(-int64(len(batch)))
			return nil
		}), &outbox.RelayConfig{Retention: outbox.DeleteOnPublish, Logger: slog.New(slog.DiscardHandler)}))
		var first int64
		for i := range 10 {
			left.Add(n)
			db.pending(b, n)
			eventually(b, "drained", func() bool { return left.Load() <= 0 })
			size := one[int64](b, db, "SELECT pg_total_relation_size('endstate_outbox')")
			if i == 0 {
				first = size
			}
			b.ReportMetric(float64(size)/float64(first), "x-first-size")
		}
	}
}

// What a relay takes of memory while a million events are pending.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		db := benchDatabase(b)
		db.pending(b, 1_000_000)
		heap := func() float64 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return float64(m.Sys-m.HeapReleased) / (1 << 20)
		}
		runtime.GC()
		idle := heap()
		var published atomic.Int64
		stop := run(b, db.relay(b, publisherFunc(func(_ context.Context, batch []outbox.Event) []error {
			published.Add(int64(len(batch)))
			return nil
		}), &outbox.RelayConfig{Logger: slog.New(slog.DiscardHandler)}))
		highest := 0.0
		for published.Load() < 50_000 {
			highest = max(highest, heap())
			time.Sleep(10 * time.Millisecond)
		}
		stop()
		b.ReportMetric(highest-idle, "MiB-above-idle")
	}
}
