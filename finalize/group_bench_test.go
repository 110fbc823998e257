package finalize_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// Settle calls at once beside the same statement written by hand, each by itself, in alternating slices: the metric that
// counts is the ratio.
func BenchmarkGroup(b *testing.B) {
	for _, c := range []struct{ callers, conns, handConns int }{{1, 8, 8}, {8, 8, 8}, {64, 8, 8}, {256, 8, 64}} {
		b.Run(fmt.Sprint(c.callers), func(b *testing.B) {
			s := newSlices(b, c.conns, c.handConns)
			fin, err := finalize.New(s.pool, &finalize.Config{Aggregate: "batch", Guard: s.guard, Logger: discard(), Cache: finalize.CacheConfig{Off: true}, Hot: finalize.HotConfig{Off: true}})
			require.NoError(b, err)
			require.NoError(b, fin.Migrate(b.Context()))
			out := completed()
			s.compare(b, c.callers, func(ctx context.Context, n int64) error {
				r, err := fin.Settle(ctx, guard.Int(n), "bench", out)
				if err == nil && !r.Won {
					err = fmt.Errorf("%d was lost", n)
				}
				return err
			}, s.byHand)
		})
	}
}

// benchSlices measures two ways in turn on open batches.
type benchSlices struct {
	guard      guard.Guard
	pool, hand *pgxpool.Pool
	rows       int64 // of a slice: it ends when all have been gone through, or after so long
	slice      time.Duration
	reset      func(b *testing.B)
}

func newSlices(b *testing.B, conns, handConns int) *benchSlices {
	server := dbtest.StartPostgres(b, "shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=30min", "autovacuum=off")
	with := func(n int) func(*pgxpool.Config) { return func(c *pgxpool.Config) { c.MaxConns = int32(n) } }
	s := &benchSlices{rows: 60_000, slice: 500 * time.Millisecond, pool: dbtest.PoolOn(b, server.URL(), with(conns)), hand: dbtest.PoolOn(b, server.URL(), with(handConns)),
		guard: guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")}}
	_, err := s.pool.Exec(b.Context(), "CREATE TABLE batches (id bigint PRIMARY KEY, status text NOT NULL)")
	require.NoError(b, err)
	s.reset = func(b *testing.B) { s.fill(b, s.rows) }
	return s
}

// fill makes n open batches.
func (s *benchSlices) fill(b *testing.B, n int64) {
	for _, statement := range []string{
		"TRUNCATE batches, endstate_outbox",
		fmt.Sprintf("INSERT INTO batches SELECT n, 'PENDING' FROM generate_series(1, %d) n", n),
		"VACUUM ANALYZE batches, endstate_outbox", "CHECKPOINT",
	} {
		_, err := s.pool.Exec(b.Context(), statement)
		require.NoError(b, err)
	}
}

func (s *benchSlices) byHand(ctx context.Context, n int64) error {
	id := uuid.Must(uuid.NewV7())
	tag, err := s.hand.Exec(ctx, `WITH won AS (UPDATE batches SET status = $2 WHERE id = $1 AND NOT (starts_with(status, 'COMPLETE') OR starts_with(status, 'ERROR')) RETURNING id)
INSERT INTO endstate_outbox (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT $3::uuid, $4, $5, $6, $7, $8, $9::jsonb, clock_timestamp(), $10, 1, 7 FROM won`,
		n, "COMPLETE_STABLE", id.String(), "batch", fmt.Sprint(n), "batch.completed", []byte(`{"ok":true}`), "application/json", "{}", fmt.Sprintf("batch/i:%d#batch.completed", n))
	if err == nil && tag.RowsAffected() != 1 {
		err = fmt.Errorf("%d was lost", n)
	}
	return err
}

// compare reports the medians of both ways' rates, and their ratio.
func (s *benchSlices) compare(b *testing.B, callers int, ours, theirs func(ctx context.Context, n int64) error) {
	var rates [2][]float64
	for round := range 5 {
		for _, way := range []int{round % 2, 1 - round%2} {
			s.reset(b)
			do := []func(context.Context, int64) error{ours, theirs}[way]
			var next, done atomic.Int64
			var group sync.WaitGroup
			start := time.Now()
			for range callers {
				group.Go(func() {
					for time.Since(start) < s.slice {
						n := next.Add(1)
						if n > s.rows {
							return
						}
						if err := do(b.Context(), n); err != nil {
							b.Error(err)
							return
						}
						done.Add(1)
					}
				})
			}
			group.Wait()
			if round > 0 {
				rates[way] = append(rates[way], float64(done.Load())/time.Since(start).Seconds())
			}
		}
	}
	for way := range rates {
		slices.Sort(rates[way])
	}
	mine, hand := rates[0][len(rates[0])/2], rates[1][len(rates[1])/2]
	b.ReportMetric(mine, "ours/s")
	b.ReportMetric(hand, "hand/s")
	b.ReportMetric(mine/hand, "ratio")
	b.ReportMetric(0, "ns/op")
}
