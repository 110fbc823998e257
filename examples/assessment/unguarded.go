package main

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// unguarded is the function as it was in the incident: whoever calls it finalizes the batch. It has a transaction and an
// outbox, so an event goes out if and only if the status is written. It does so every time.
type unguarded struct {
	*store
	options
}

func (u *unguarded) finalize(ctx context.Context, id, trigger string) (string, error) {
	if err := u.score(ctx, id, trigger, u.scoring); err != nil {
		return "", err
	}
	tx, err := u.BeginTx(ctx, nil)
	if err != nil {
		return "", err
	}
	defer tx.Rollback()
	// The status is written first, so that SQLite takes its write lock first.
	if _, err := tx.ExecContext(ctx, u.sql(`UPDATE batches SET status = 'COMPLETE_STABLE' WHERE id = $1`), id); err != nil {
		return "", err
	}
	p, err := u.progress(ctx, tx, id)
	if err != nil {
		return "", err
	}
	if err := u.note(ctx, tx, id, trigger, p, u.thresholdPercent); err != nil {
		return "", err
	}
	for _, e := range completionEvents(id) {
		_, err := tx.ExecContext(ctx, u.sql(`INSERT INTO event_outbox VALUES ($1, $2, $3, $4, $5, NULL)`),
			uuid.NewString(), id, e.Type, string(e.Payload), time.Now().UTC().Format(time.RFC3339Nano))
		if err != nil {
			return "", err
		}
	}
	return "won", tx.Commit()
}
