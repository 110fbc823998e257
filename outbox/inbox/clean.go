package inbox

import (
	"context"
	"fmt"
)

// cleanBatch is how many records one statement deletes.
const cleanBatch = 1000

// Clean deletes the consumer's records that are older than Retention by the database's clock, but for dead letters, and
// returns how many it deleted. It works in batches of a thousand, each a transaction of its own, which wait for no delivery;
// several may run at once. Call it from time to time, once an hour say. An event that is published again after its record
// went is applied again: see TableConfig.Retention.
func (t *Table[Tx]) Clean(ctx context.Context) (deleted int64, err error) {
	consumer, err := t.consumer(ctx)
	if err != nil {
		return 0, err
	}
	for {
		var n int64
		err := t.retry(ctx, maxRuns, func() error {
			tag, err := t.db.querier().Exec(ctx, t.sql.clean, consumer, t.cfg.Retention.Seconds(), cleanBatch)
			n = tag.RowsAffected()
			return err
		})
		deleted += n
		if err != nil {
			return deleted, fmt.Errorf("inbox: consumer %s: clean up: %w", consumer, t.explain(ctx, err))
		}
		if n < cleanBatch {
			return deleted, nil
		}
	}
}
