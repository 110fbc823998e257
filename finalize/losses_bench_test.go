package finalize

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// Settle and Do where some calls lose to another process: as they adapt, beside looking first always, and never.
func BenchmarkLosses(b *testing.B) {
	for _, door := range []string{"settle", "do"} {
		for _, percent := range []int{0, 20, 50, 80, 100} {
			for _, way := range []string{"adaptive", "always", "never"} {
				b.Run(fmt.Sprintf("%s/%d/%s", door, percent, way), func(b *testing.B) { benchmarkLosses(b, door, percent, way) })
			}
		}
	}
}

func benchmarkLosses(b *testing.B, door string, percent int, way string) {
	ctx := b.Context()
	pool := dbtest.Pool(b)
	_, err := pool.Exec(ctx, "CREATE TABLE batches (id bigint PRIMARY KEY, status text NOT NULL)")
	require.NoError(b, err)
	_, err = pool.Exec(ctx, "INSERT INTO batches SELECT n, CASE WHEN (n * 61) % 100 < $1 THEN 'COMPLETE' ELSE 'PENDING' END FROM generate_series(1, $2::int) n", percent, b.N)
	require.NoError(b, err)
	fin, err := New(pool, &Config{
		Aggregate: "batch", Logger: slog.New(slog.DiscardHandler), Cache: CacheConfig{Off: true},
		Guard: guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE")},
	})
	require.NoError(b, err)
	require.NoError(b, fin.Migrate(ctx))
	_, err = pool.Exec(ctx, "VACUUM ANALYZE batches")
	require.NoError(b, err)
	outcome := Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{{Type: "batch.completed", Payload: []byte("{}")}}}
	fn := func(context.Context, pgx.Tx) (Outcome, error) { return outcome, nil }
	b.ReportAllocs()
	b.ResetTimer()
	for n := range int64(b.N) {
		switch way {
		case "always":
			fin.losses.share.Store(allLost)
		case "never":
			fin.losses.share.Store(0)
		}
		var err error
		if door == "do" {
			_, err = fin.Do(ctx, guard.Int(n+1), "bench", fn)
		} else {
			_, err = fin.Settle(ctx, guard.Int(n+1), "bench", outcome)
		}
		require.NoError(b, err)
	}
}
