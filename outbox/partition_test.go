package outbox_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
)

// A shard is stored with the row, so these numbers may never change.
func TestShardsStayTheSame(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]int{"b1": 53, "": 48, "Ünïcode 🎉": 54} {
		require.Equal(t, want, outbox.Partition("batch", id), id)
	}
	seen := map[int]int{}
	for i := range 6400 {
		seen[outbox.Partition("batch", fmt.Sprint(i))]++
	}
	require.Len(t, seen, outbox.Partitions)
	for shard, n := range seen {
		require.InDelta(t, 100, n, 50, "shard %d", shard)
	}
}

// Rows have the shard that Shard says and SQL computes, whichever way they went in.
func TestPutFillsInTheShard(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		var events []outbox.Event
		for i := range 100 {
			e := event("completed", "")
			e.AggregateType, e.AggregateID = fmt.Sprintf("bätch/%d", i%3), fmt.Sprintf("é/%d", i)
			events = append(events, e)
		}
		db.put(t, events...)
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			rows, err := tx.Query(ctx, "SELECT aggregate_type, aggregate_id, shard FROM endstate_outbox")
			require.NoError(t, err)
			defer rows.Close()
			for rows.Next() {
				var aggregateType, aggregateID string
				var shard int
				require.NoError(t, rows.Scan(&aggregateType, &aggregateID, &shard))
				require.Equal(t, outbox.Partition(aggregateType, aggregateID), shard)
			}
			require.NoError(t, rows.Err())
		})
		if !db.sqlite {
			require.Zero(t, one[int](t, db, `SELECT count(*) FROM endstate_outbox
WHERE shard <> get_byte(sha256(convert_to(aggregate_type || '/' || aggregate_id, 'UTF8')), 0) % 64`))
		}
	})
}
