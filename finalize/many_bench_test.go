package finalize_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// SettleMany of a thousand beside one statement with unnest, written by hand.
func BenchmarkSettleMany(b *testing.B) {
	const size = 1000
	s := newSlices(b, 1, 1)
	fin, err := finalize.New(s.pool, &finalize.Config{Aggregate: "batch", Guard: s.guard, Logger: discard(), Cache: finalize.CacheConfig{Off: true}, Hot: finalize.HotConfig{Off: true}})
	require.NoError(b, err)
	require.NoError(b, fin.Migrate(b.Context()))
	out := completed()
	s.rows, s.slice = 60, 10*time.Second // all of them
	s.reset = func(b *testing.B) { s.fill(b, s.rows*size) }
	s.compare(b, 1, func(ctx context.Context, n int64) error {
		items := make([]finalize.Item, size)
		for i := range items {
			items[i] = finalize.Item{Key: guard.Int((n-1)*size + int64(i) + 1), Outcome: out}
		}
		_, err := fin.SettleMany(ctx, "bench", items)
		return err
	}, func(ctx context.Context, n int64) error {
		ids, keys, types, dedup, payloads := make([]int64, size), make([]string, size), make([]string, size), make([]string, size), make([][]byte, size)
		for i := range ids {
			ids[i] = (n-1)*size + int64(i) + 1
			keys[i], types[i], dedup[i], payloads[i] = uuid.Must(uuid.NewV7()).String(), "batch.completed", fmt.Sprintf("batch/i:%d#batch.completed", ids[i]), []byte(`{"ok":true}`)
		}
		tag, err := s.hand.Exec(ctx, `WITH item AS (SELECT * FROM unnest($1::int8[], $2::text[], $3::text[], $4::text[], $5::bytea[]) AS i (batch, event, type, dedup, payload)),
won AS (UPDATE batches SET status = $6 FROM item WHERE id = item.batch AND NOT (starts_with(status, 'COMPLETE') OR starts_with(status, 'ERROR')) RETURNING item.*)
INSERT INTO endstate_outbox (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT event::uuid, 'batch', batch::text, type, payload, 'application/json', '{}', clock_timestamp(), dedup, 1, 7 FROM won`, ids, keys, types, dedup, payloads, "COMPLETE_STABLE")
		if err == nil && tag.RowsAffected() != size {
			err = fmt.Errorf("%d of %d", tag.RowsAffected(), size)
		}
		return err
	})
}
