package main

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// outboxCommands are those for what waits in an outbox, what is dead, and what to do about it.
type outboxCommands struct {
	*app
	writer outbox.Writer
}

func newOutbox(a *app) *cobra.Command {
	o := &outboxCommands{app: a}
	cmd := group("outbox", "Look into the outbox, and do something about its dead letters and subscriptions",
		o.stats(), o.list(), o.show(), o.retry(), o.discard(), o.replay(), o.drop(), o.history(), o.purge())
	outboxFlags(cmd, &o.writer)
	return cmd
}

// on runs f on the outbox that the flags name.
func (o *outboxCommands) on(access access, f func(ctx context.Context, admin *relay.Admin, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		admin, db, err := o.admin(cmd.Context(), access, &o.writer)
		if err != nil {
			return err
		}
		defer db.close()
		return f(cmd.Context(), admin, args)
	}
}

// outboxFlags are the flags, of a command and those below it, that name the library's outbox.
func outboxFlags(cmd *cobra.Command, writer *outbox.Writer) {
	cmd.PersistentFlags().StringVar(&writer.Schema, "schema", "", "the outbox's `SCHEMA`; default: the connection's search path")
	cmd.PersistentFlags().StringVar(&writer.Table, "outbox", outbox.DefaultTable, "the outbox's `TABLE`")
}

// subscriptionFlag names the subscription that a command is for.
func subscriptionFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "subscription", relay.DefaultSubscription, "the `SUBSCRIPTION`, one of those that outbox stats lists")
}

// byFlags say who does something to a subscription, and why.
func byFlags(cmd *cobra.Command, by *relay.By) {
	subscriptionFlag(cmd, &by.Subscription)
	cmd.Flags().StringVar(&by.Who, "by", "", "`WHO` does it")
	cmd.Flags().StringVar(&by.Why, "reason", "", "`WHY`")
	for _, name := range []string{"by", "reason"} {
		_ = cmd.MarkFlagRequired(name) // it exists
	}
}

// filterFlags say which events are meant.
func filterFlags(cmd *cobra.Command, filter *relay.Filter) {
	cmd.Flags().StringVar(&filter.Type, "type", "", "only events of this `TYPE`")
	cmd.Flags().StringVar(&filter.AggregateType, "aggregate-type", "", "only events of aggregates of this `TYPE`")
	cmd.Flags().StringVar(&filter.AggregateID, "aggregate-id", "", "only events of the aggregate with this `ID`")
	cmd.Flags().StringVar(&filter.Error, "error", "", "only events whose last error has this `TEXT` in it")
	cmd.Flags().DurationVar(&filter.OlderThan, "older-than", 0, "only events created longer ago than this `DURATION`")
}

// admin opens the outbox that writer names. The caller closes the database.
func (a *app) admin(ctx context.Context, access access, writer *outbox.Writer) (*relay.Admin, *database, error) {
	db, err := a.open(ctx, access)
	if err != nil {
		return nil, nil, err
	}
	admin, err := db.admin(*writer)
	if err == nil {
		checking, cancel := context.WithTimeout(ctx, openTimeout)
		err = admin.Check(checking)
		cancel()
	}
	if err != nil {
		db.close()
		return nil, nil, err
	}
	return admin, db, nil
}

// parseIDs reads the ids of events.
func parseIDs(args []string) ([]uuid.UUID, error) {
	ids := make([]uuid.UUID, len(args))
	for i, arg := range args {
		var err error
		if ids[i], err = uuid.Parse(arg); err != nil {
			return nil, fmt.Errorf("%q is not the id of an event, a UUID", arg)
		}
	}
	return ids, nil
}

// aggregate is how tables show an aggregate.
func aggregate(e outbox.Event) string { return e.AggregateType + " " + e.AggregateID }

// count is a number of things, such as "1 event" and "2 events".
func count[N int | int64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
