package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/outbox"
)

const putSize = 1000

func (b *bencher) put(size int) one {
	return func(ctx context.Context, n int64) error {
		n = b.id(n)
		return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
			events := make([]outbox.Event, size)
			for i := range events {
				events[i] = outbox.Event{AggregateType: "batch", AggregateID: fmt.Sprint(n), Type: eventType, Payload: payload(), DedupKey: fmt.Sprint(n, "/", i)}
			}
			results, err := traced.Put(ctx, tx, events...)
			if err == nil && !results[size-1].Inserted {
				return errLost
			}
			return err
		})
	}
}
