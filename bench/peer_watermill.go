package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill"
	watermillsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
)

// watermillDrain drains a topic of Watermill's with its SQL subscriber, 500 messages at a time.
func (b *bencher) watermillDrain(events int) way {
	run := 0
	return func(ctx context.Context) (s sample, err error) {
		run++
		topic := fmt.Sprintf("completed%d", run)
		schema := watermillsql.DefaultPostgreSQLSchema{SubscribeBatchSize: 500}
		subscriber, err := watermillsql.NewSubscriber(watermillsql.BeginnerFromPgx(b.pool), watermillsql.SubscriberConfig{
			SchemaAdapter: schema, OffsetsAdapter: watermillsql.DefaultPostgreSQLOffsetsAdapter{}, InitializeSchema: true,
		}, watermill.NopLogger{})
		if err != nil {
			return sample{}, err
		}
		defer func() { err = errors.Join(err, subscriber.Close()) }()
		if err := subscriber.SubscribeInitialize(topic); err != nil {
			return sample{}, err
		}
		table := schema.MessagesTable(topic)
		for _, statement := range []string{
			fmt.Sprintf(`INSERT INTO %s (uuid, payload, metadata, transaction_id)
SELECT gen_random_uuid(), '%s', '%s', pg_current_xact_id() FROM generate_series(1, %d)`, table, payload(), headers, events),
			"VACUUM ANALYZE " + table,
		} {
			if _, err := b.pool.Exec(ctx, statement); err != nil {
				return sample{}, err
			}
		}
		return b.sample(ctx, func() (float64, error) {
			messages, err := subscriber.Subscribe(ctx, topic)
			if err != nil {
				return 0, err
			}
			for range events {
				message, ok := <-messages
				if !ok {
					return 0, fmt.Errorf("watermill: the subscription ended")
				}
				message.Ack()
			}
			return float64(events), nil
		})
	}
}
