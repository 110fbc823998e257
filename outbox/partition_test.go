package outbox_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
)

// A partition is stored with the row, so these numbers may never change.
func TestGoldenVectorsOfPartitions(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]int{"b1": 5, "": 0, "Ünïcode 🎉": 6} {
		require.Equal(t, want, outbox.Partition("batch", id), id)
	}
	seen := map[int]int{}
	for i := range 6400 {
		seen[outbox.Partition("batch", fmt.Sprint(i))]++
	}
	require.Len(t, seen, outbox.Partitions)
	for partition, n := range seen {
		require.InDelta(t, 800, n, 100, "partition %d", partition)
	}
}

// Rows have the partition that Partition says and SQL computes, whichever way they went in.
func TestPutFillsInThePartition(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		var events []outbox.Event
		for i := range 100 {
			e := event("completed", "")
			e.AggregateType, e.AggregateID = fmt.Sprintf("bätch/%d", i%3), fmt.Sprintf("é/%d", i)
			events = append(events, e)
		}
		db.Put(t, events...)
		db.In(t, func(ctx context.Context, tx endstate.Tx) {
			rows, err := tx.Query(ctx, "SELECT aggregate_type, aggregate_id, partition FROM endstate_outbox")
			require.NoError(t, err)
			defer rows.Close()
			for rows.Next() {
				var aggregateType, aggregateID string
				var partition int
				require.NoError(t, rows.Scan(&aggregateType, &aggregateID, &partition))
				require.Equal(t, outbox.Partition(aggregateType, aggregateID), partition)
			}
			require.NoError(t, rows.Err())
		})
		if !db.SQLite {
			require.Zero(t, outboxdbtest.One[int](t, db, `SELECT count(*) FROM endstate_outbox
WHERE partition <> endstate_outbox_partition(aggregate_type, aggregate_id)`))
		}
	})
}
