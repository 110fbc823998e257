package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// results is the consumer that needs neither a broker nor an inbox: its tables are in the database of the events, so that
// what it writes commits with the cursor that has passed the event.
const results = "results"

// crashEnv tells a process of results at which step it is to be killed.
const crashEnv = "CONSUMERS_CRASH"

// apply is a process of results: it stores what comes until in ends.
func apply(ctx context.Context, in io.Reader) error {
	db, err := open(os.Getenv(dbEnv))
	if err != nil {
		return err
	}
	defer db.Close()
	crash := &crasher{planned: os.Getenv(crashEnv)}
	consumer, err := relay.NewConsumerSQL(db, func(ctx context.Context, tx *sql.Tx, event outbox.Event) error {
		return crash.around(func() error {
			// Every event once: nothing drops a second one here. Two events for one batch are one result, by its key.
			if _, err := tx.ExecContext(ctx, `INSERT INTO results_events VALUES ($1, $2)`, event.ID.String(), event.AggregateID); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO results VALUES ($1, $2) ON CONFLICT DO NOTHING`, event.AggregateID, string(event.Payload))
			return err
		})
	}, &relay.Config{Subscription: results, Types: []string{"assessment.result"}, PollInterval: 50 * time.Millisecond, LeaseTTL: time.Second, Logger: quiet()})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, in)
		stop()
	}()
	return consumer.Run(ctx)
}

// applyAll runs a process of results until it has all, after two that are killed: before an effect, and before its commit.
func (b *broker) applyAll(ctx context.Context, w *world) error {
	for _, step := range []string{"after claim", "after effect"} {
		p, err := startProcess(ctx, w, results, crashEnv+"="+step)
		if err != nil {
			return err
		}
		if err := p.cmd.Wait(); err == nil || ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), errors.New("the process was not killed"), p.stop())
		}
		b.counts[results].cut++
	}
	p, err := startProcess(ctx, w, results)
	if err != nil {
		return err
	}
	return errors.Join(w.applied(ctx), p.stop())
}

// applied waits until the consumer has handled everything.
func (w *world) applied(ctx context.Context) error {
	admin, err := relay.NewAdminSQL(w.db, nil)
	if err != nil {
		return err
	}
	for {
		stats, err := admin.Stats(ctx)
		if err != nil {
			return err
		}
		for _, s := range stats {
			if s.Subscription == results && s.Pending+s.Retrying == 0 {
				return nil
			}
			if s.Subscription == results && s.Dead > 0 {
				return fmt.Errorf("%d events are dead", s.Dead)
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
