package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// newOutbox groups the commands for what waits in an outbox, what is dead, and what to do about it.
func newOutbox(a *app) *cobra.Command {
	var writer outbox.Writer
	cmd := group("outbox", "Look into the outbox, and do something about its dead letters and subscriptions",
		newOutboxStats(a, &writer),
		newOutboxList(a, &writer),
		newOutboxShow(a, &writer),
		newOutboxRetry(a, &writer),
		newOutboxDiscard(a, &writer),
		newOutboxReplay(a, &writer),
		newOutboxDrop(a, &writer),
		newOutboxHistory(a, &writer),
		newOutboxPurge(a, &writer),
	)
	outboxFlags(cmd, &writer)
	return cmd
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

// admin opens the outbox that the flags name. The caller closes what it returns.
func (a *app) admin(ctx context.Context, access access, writer *outbox.Writer) (*relay.Admin, *database, error) {
	db, err := a.open(ctx, access)
	if err != nil {
		return nil, nil, err
	}
	var admin *relay.Admin
	cfg := &relay.Config{Outbox: *writer}
	if db.pool != nil {
		admin, err = relay.NewAdmin(db.pool, cfg)
	} else {
		admin, err = relay.NewAdminSQL(db.sql, cfg)
	}
	if err == nil {
		err = admin.Check(ctx)
	}
	if err != nil {
		db.close()
		return nil, nil, err
	}
	return admin, db, nil
}

// aggregate is how tables show an aggregate.
func aggregate(e outbox.Event) string { return e.AggregateType + " " + e.AggregateID }

// optional is a time, or nil for none.
func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// count is a number of things, such as "1 event" and "2 events".
func count[N int | int64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
