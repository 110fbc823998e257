package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/inbox/inboxredis"
)

// The steps at which a process is killed.
var steps = []string{"before claim", "after claim", "after effect", "after done"}

const acknowledgement = "ok\n"

// consume is a consumer's process: it handles the deliveries that come in, one after the other, until there are no more.
func consume(ctx context.Context, name string, in io.Reader, out io.Writer) error {
	db, err := open(os.Getenv(dbEnv))
	if err != nil {
		return err
	}
	defer db.Close()
	crash := new(crasher)
	handler, err := newHandler(ctx, name, db, crash)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var d delivery
		if err := json.Unmarshal(lines.Bytes(), &d); err != nil {
			return err
		}
		crash.planned = d.Crash
		crash.at("before claim")
		if err := handle(ctx, handler, d.Event); err != nil {
			return err
		}
		crash.at("after done")
		// A repeat calls no function, and so can't die in it.
		crash.at(d.Crash)
		if _, err := io.WriteString(out, acknowledgement); err != nil {
			return err
		}
	}
	return lines.Err()
}

// handle handles one delivery, again for as long as another one is in progress: that may be one whose process has died.
func handle(ctx context.Context, handler inbox.Handler, event outbox.Event) error {
	for {
		_, err := handler(ctx, event)
		if !errors.Is(err, inbox.ErrInProgress) {
			return err
		}
	}
}

// crasher kills the process at the step that is planned.
type crasher struct{ planned string }

func (c *crasher) at(step string) {
	if c.planned == step && step != "" {
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		panic(fmt.Sprint("not killed: ", err))
	}
}

// around lets the process die before and after an effect.
func (c *crasher) around(effect func() error) error {
	c.at("after claim")
	err := effect()
	if err == nil {
		c.at("after effect")
	}
	return err
}

// newHandler makes the handler of a consumer, each in another way.
func newHandler(ctx context.Context, name string, db *sql.DB, crash *crasher) (inbox.Handler, error) {
	switch name {
	case "lifecycle":
		return lifecycle(ctx, db, crash)
	case "entitlements":
		return entitlements(db, crash)
	}
	return nil, fmt.Errorf("there is no consumer %q", name)
}

// lifecycle moves its own copy of the batch, and leaves it to the state machine to refuse a second time.
func lifecycle(ctx context.Context, db *sql.DB, crash *crasher) (inbox.Handler, error) {
	fin, err := finalize.NewSQL(db, &finalize.Config{Aggregate: "lifecycle batch", Logger: quiet(), Guard: guard.All(
		guard.Status{Table: "lifecycle_batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE")}, guard.Ledger{})})
	if err != nil {
		return nil, err
	}
	if err := fin.Migrate(ctx); err != nil {
		return nil, err
	}
	move := inbox.Status[*sql.Tx](func(ctx context.Context, event outbox.Event, cause string, effect func(context.Context, *sql.Tx) error) (bool, string, error) {
		receipt, err := fin.Do(ctx, guard.Text(event.AggregateID), finalize.Trigger(cause), func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
			return finalize.Outcome{State: "COMPLETE"}, effect(ctx, tx)
		})
		return receipt.Won, string(receipt.Trigger), err
	})
	return inbox.Handle(move, func(ctx context.Context, tx *sql.Tx, event outbox.Event) error {
		return crash.around(func() error {
			_, err := tx.ExecContext(ctx, `INSERT INTO lifecycle_moves VALUES ($1)`, event.AggregateID)
			return err
		})
	}), nil
}

// byBatch is the business key: one effect for each batch, whatever the ids of the events that ask for it.
func byBatch(event outbox.Event) (string, error) { return event.Type + "/" + event.AggregateID, nil }

// entitlements charges a credit. Redis drops nearly all repeats; what decides is the credit's row, keyed by the batch.
func entitlements(db *sql.DB, crash *crasher) (inbox.Handler, error) {
	opts, err := redis.ParseURL(os.Getenv(redisEnv))
	if err != nil {
		return nil, errors.New("the Redis URL can't be used") // unquoted: it may hold a password
	}
	store, err := inboxredis.New(redis.NewClient(opts), "endstate:example:"+os.Getenv(runEnv))
	if err != nil {
		return nil, err
	}
	claims, err := inbox.NewClaims(store, &inbox.ClaimsConfig{Consumer: "entitlements", Key: byBatch, Logger: quiet(),
		Lease: 500 * time.Millisecond, Retention: 10 * time.Minute})
	if err != nil {
		return nil, err
	}
	return inbox.Handle(claims, func(ctx context.Context, event outbox.Event) error {
		return crash.around(func() error { return charge(ctx, db, event.AggregateID) })
	}), nil
}

// charge charges a batch's credit once.
func charge(ctx context.Context, db *sql.DB, batch string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	result, err := tx.ExecContext(ctx, `INSERT INTO credits VALUES ($1) ON CONFLICT DO NOTHING`, batch)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return err // charged before
	}
	if _, err := tx.ExecContext(ctx, `UPDATE accounts SET charged = charged + 1 WHERE id = 1`); err != nil {
		return err
	}
	return tx.Commit()
}
