package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox/adopt"
)

// newAdoptMove groups the commands that move events out of a service's own outbox into the library's.
func newAdoptMove(a *app) *cobra.Command {
	return group("move", "Move a service's own outbox into the library's, while its writers go on",
		a.move("plan", "Say what apply would do, or what of the table can't be taken", `Say what apply would do, or what of the table can't be taken. It only reads, and reads every pending event.

Exit status: 0 there is nothing to do, 1 there is, 2 the table can't be moved from, or could not look.`, a.movePlan),
		a.move("apply", "Move pending events, and have what is written from now on moved as well", `Move pending events, and have what is written from now on moved as well.

First end the service's own relay, unless it keeps the rows that it publishes locked until they are marked. Then run apply:
pending events go over in order, in batches, and are marked as published in the table that they come from; a trigger moves
what writers put there from then on, in their own transactions. Now start endstate relay. It may be killed at any point and
run again; two at once take turns. It needs the rights of the table's owner, and a session: not a pooler in transaction mode.`, a.moveRun("moved", (*adopt.Move).Apply)),
		a.move("undo", "Give back what no relay has published yet", `Give back what no relay of the subscription has published yet, so that the service's own relay goes on with it. The relays have
to be stopped first. Dead letters stay where they are.`, a.moveRun("moved back", (*adopt.Move).Undo)),
		a.move("finish", "Take the trigger away once nothing writes to the old table any more", `Take the trigger away once nothing writes to the old table any more. It can be dropped then.`, a.moveRun("moved", (*adopt.Move).Finish)),
	)
}

// move is a command on a move, with the flags that all of them have.
func (a *app) move(use, short, long string, run func(context.Context, *adopt.Move) error) *cobra.Command {
	var cfg adopt.MoveConfig
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		db, err := a.onPostgres(cmd.Context(), "adopt move is for PostgreSQL: on SQLite, copy the pending events in one transaction")
		if err != nil {
			return err
		}
		defer db.close()
		cfg.Progress, cfg.Logger = a.steps("events")
		move, err := adopt.NewMove(db.pool, cfg)
		if err != nil {
			return err
		}
		return run(cmd.Context(), move)
	}}
	flags := cmd.Flags()
	for _, f := range []struct {
		field                *string
		name, fallback, what string
	}{
		{&cfg.Schema, "from-schema", "", "the `SCHEMA` of the table; default: the connection's search path"},
		{&cfg.Table, "from", "event_outbox", "the `TABLE` to move from"},
		{&cfg.ID, "id", "id", "the `COLUMN` of the event's id: a UUID, a number or text"},
		{&cfg.Type, "type", "event_type", "the `COLUMN` of the event's type"},
		{&cfg.Aggregate, "aggregate", "aggregate_id", "the `COLUMN` of the aggregate's id"},
		{&cfg.AggregateType, "aggregate-type", "", "the `COLUMN` of the aggregate's type"},
		{&cfg.AggregateName, "aggregate-name", "", "the `TYPE` of all aggregates, where no column has it"},
		{&cfg.Payload, "payload", "payload", "the `COLUMN` of the payload: text, json, jsonb or bytea"},
		{&cfg.ContentType, "content-type", "application/json", "the media `TYPE` of the payloads"},
		{&cfg.Headers, "headers", "", "the json or jsonb `COLUMN` of headers"},
		{&cfg.DedupKey, "dedup-key", "", "the unique `COLUMN` to deduplicate by"},
		{&cfg.Time, "time", "created_at", "the `COLUMN` of the time when the event was written"},
		{&cfg.TimeZone, "time-zone", "UTC", "the `ZONE` of times without one"},
		{&cfg.Order, "order", "", "the `COLUMN` that grows as an aggregate's events are written; default: --id if a number, else --time"},
		{&cfg.Published, "published", "published_at", "the `COLUMN` that tells what is published"},
		{&cfg.PublishedValue, "published-value", "", "the `VALUE` of --published once an event is published, such as SENT"},
		{&cfg.PendingValue, "pending-value", "", "the `VALUE` of --published until then, such as NEW"},
		{&cfg.Outbox.Schema, "schema", "", "the `SCHEMA` of the library's outbox"},
		{&cfg.Outbox.Table, "outbox", "endstate_outbox", "the library's outbox, a `TABLE`"},
		{&cfg.Subscription, "subscription", "default", "the `SUBSCRIPTION` whose publications count for undo"},
	} {
		flags.StringVar(f.field, f.name, f.fallback, f.what)
	}
	flags.IntVar(&cfg.Batch, "batch", 1000, "how many events go over in one transaction")
	flags.DurationVar(&cfg.LockTimeout, "lock-timeout", 2*time.Second, "how long writers may have to wait for a step")
	return cmd
}

func (a *app) movePlan(ctx context.Context, move *adopt.Move) error {
	plan, err := move.Plan(ctx)
	if err != nil {
		return err
	}
	err = a.print(plan, func(w io.Writer) {
		t := newTable()
		t.row("from", plan.Table)
		t.row("to", plan.Outbox)
		t.row("pending events", plan.Pending)
		t.row("writers' events are moved", plan.Moving)
		t.write(w)
		for _, note := range plan.Notes {
			fmt.Fprintln(w, "note:", note)
		}
		if plan.Moving && plan.Pending == 0 {
			fmt.Fprintln(w, "\nNothing is to be done.")
			return
		}
		fmt.Fprintln(w)
		for _, step := range plan.Steps {
			fmt.Fprintln(w, step)
		}
	})
	return orFound(err, !(plan.Moving && plan.Pending == 0))
}

func (a *app) moveRun(done string, do func(*adopt.Move, context.Context) (*adopt.MoveResult, error)) func(context.Context, *adopt.Move) error {
	return func(ctx context.Context, move *adopt.Move) error {
		result, err := do(move, ctx)
		if err != nil {
			return err
		}
		return a.print(result, func(w io.Writer) {
			fmt.Fprintf(w, "%s %s\n", count(result.Moved, "event"), done)
			if result.Left > 0 {
				fmt.Fprintf(w, "%s left in %s\n", count(result.Left, "dead letter"), result.Outbox)
			}
		})
	}
}
