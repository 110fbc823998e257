package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/endstate-go/endstate/otelendstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/kafka"
	"github.com/endstate-go/endstate/outbox/natsjs"
)

// lifecycle closes its copy of a batch, once. It listens to NATS.
func (w *world) lifecycle(ctx context.Context) error {
	handle, err := w.handler(ctx, otelendstate.Consumer{Name: "lifecycle", System: "nats", Destination: "EVENTS"}, "assessment.completed", "INSERT INTO lifecycle VALUES (?)")
	if err != nil {
		return fmt.Errorf("lifecycle: %w", err)
	}
	durable, err := w.js.CreateConsumer(ctx, "EVENTS", jetstream.ConsumerConfig{Durable: "lifecycle", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		return fmt.Errorf("lifecycle: %w", err)
	}
	consumer, err := natsjs.NewConsumer(w.js, durable, handle, &natsjs.ConsumerConfig{DeadLetters: "dead.lifecycle", RetryAfter: 50 * time.Millisecond, Logger: w.logger})
	if err != nil {
		return fmt.Errorf("lifecycle: %w", err)
	}
	return consumer.Run(ctx)
}

// entitlements charges a credit for a batch, once. It is a member of a group of Kafka's.
func (w *world) entitlements(ctx context.Context) error {
	handle, err := w.handler(ctx, otelendstate.Consumer{Name: "entitlements", System: "kafka", Destination: kafka.DefaultTopic}, "assessment.consumed", "INSERT INTO credits VALUES (?)")
	if err != nil {
		return fmt.Errorf("entitlements: %w", err)
	}
	consumer, err := kafka.NewConsumer(handle, &kafka.ConsumerConfig{Group: "entitlements", RetryAfter: 50 * time.Millisecond, Logger: w.logger}, kgo.SeedBrokers(w.kafka.ListenAddrs()...))
	if err != nil {
		return fmt.Errorf("entitlements: %w", err)
	}
	return consumer.Run(ctx)
}

// handler is a consumer's: the statement is its effect, in one transaction with the inbox's row.
func (w *world) handler(ctx context.Context, consumer otelendstate.Consumer, eventType, effect string) (inbox.Handler, error) {
	table, err := inbox.NewTableSQL(w.db, &inbox.TableConfig{Consumer: consumer.Name, Types: []string{eventType}, Logger: w.logger})
	if err == nil {
		err = table.Migrate(ctx)
	}
	var failed sync.Map
	return w.telemetry.Handler(consumer, inbox.Handle(table, func(ctx context.Context, tx *sql.Tx, e outbox.Event) error {
		if _, err := tx.ExecContext(ctx, effect, e.AggregateID); err != nil {
			return err
		}
		if _, again := failed.LoadOrStore(e.ID, true); !again && e.ID[15]%5 == 0 {
			return errors.New("away for a moment") // after the effect, which is rolled back
		}
		return nil
	})), err
}

// await waits until each consumer has applied as many events as there are batches.
func (w *world) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the effects didn't come within two minutes"))
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		closed, charged, err := w.effects(ctx)
		if err == nil && closed >= w.opts.batches && charged >= w.opts.batches {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

// effects counts what the consumers did.
func (w *world) effects(ctx context.Context) (closed, charged int, err error) {
	err = w.db.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM lifecycle), (SELECT count(*) FROM credits)").Scan(&closed, &charged)
	return closed, charged, err
}
