package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox/relay"
)

// retry is the command that makes dead letters pending again.
func (o *outboxCommands) retry() *cobra.Command {
	cmd := o.intervention("retry", "pending again", (*relay.Admin).Retry)
	cmd.Short = "Make dead letters pending again; who did it, and why, is recorded"
	cmd.Long = `Make dead letters pending again, with their attempts counted anew. Who did it, and why, is recorded; outbox show has it.
Later events of the same aggregate may have been published meanwhile.

Exit status: 0 all are pending again, 1 some of the events aren't dead and were left as they are, 2 could not run to its end.`
	cmd.Example = `  endstate outbox retry 0199a9c4-8a3e-7cc1-b9ef-7f3c6fb1d1a4 --by ann --reason 'the broker takes 2 MB now'
  endstate outbox retry --all --type order.paid --by ann --reason 'the receiver is fixed'`
	return cmd
}

// discard is the command that deletes dead letters.
func (o *outboxCommands) discard() *cobra.Command {
	cmd := o.intervention("discard", "discarded", (*relay.Admin).Discard)
	cmd.Short = "Give up dead letters; who did it, and why, is recorded"
	cmd.Long = `Give up dead letters: the subscription's consumers will not get these events. The events themselves stay in the log until
retention deletes them. Who did it, and why, is recorded.

Exit status: 0 all are discarded, 1 some of the events aren't dead and were left as they are, 2 could not run to its end.`
	return cmd
}

// intervention is a command on dead letters.
func (o *outboxCommands) intervention(name, done string, do func(*relay.Admin, context.Context, relay.By, ...uuid.UUID) ([]uuid.UUID, error)) *cobra.Command {
	var all bool
	var filter relay.Filter
	var by relay.By
	var ids []uuid.UUID
	cmd := &cobra.Command{
		Use: name + " (ID... | --all)",
		PreRunE: func(_ *cobra.Command, args []string) (err error) {
			ids, err = parseIDs(args)
			switch narrowed := filter != (relay.Filter{}); {
			case err != nil:
				return err
			case all == (len(ids) > 0):
				return errors.New("give either the ids of events, or --all")
			case narrowed && !all:
				return errors.New("--type, --aggregate-type, --aggregate-id, --error and --older-than go with --all")
			}
			return nil
		},
		RunE: o.on(writes, func(ctx context.Context, admin *relay.Admin, _ []string) (err error) {
			if all {
				if ids, err = deadLetters(ctx, admin, by.Subscription, filter); err != nil {
					return err
				}
			}
			changed, err := do(admin, ctx, by, ids...)
			if err != nil {
				if len(changed) > 0 {
					err = fmt.Errorf("%s %s, then: %w", count(len(changed), "dead letter"), done, err)
				}
				return err
			}
			result := struct {
				Done []uuid.UUID `json:"done"`
				Left []uuid.UUID `json:"left"` // weren't dead
			}{append([]uuid.UUID{}, changed...), []uuid.UUID{}}
			isDone := make(map[uuid.UUID]bool, len(changed))
			for _, id := range changed {
				isDone[id] = true
			}
			result.Left = append(result.Left, slices.DeleteFunc(ids, func(id uuid.UUID) bool { return isDone[id] })...)
			err = o.print(result, func(w io.Writer) {
				fmt.Fprintf(w, "%s %s\n", count(len(changed), "dead letter"), done)
				for _, id := range result.Left {
					fmt.Fprintf(w, "not dead, or not there: %s\n", id)
				}
			})
			return orFound(err, !all && len(result.Left) > 0)
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "all dead letters, or those that the other flags say")
	filterFlags(cmd, &filter)
	byFlags(cmd, &by)
	return cmd
}

// deadLetters returns the ids of all that a filter says.
func deadLetters(ctx context.Context, admin *relay.Admin, subscription string, filter relay.Filter) ([]uuid.UUID, error) {
	filter.Subscription, filter.State, filter.Limit = subscription, relay.Dead, 1000
	var ids []uuid.UUID
	for {
		page, err := admin.List(ctx, filter)
		if err != nil {
			return nil, err
		}
		for _, r := range page.Records {
			ids = append(ids, r.ID)
		}
		if filter.After = page.Next; page.Next == 0 {
			return ids, nil
		}
	}
}

// replay is the command that has events published again.
func (o *outboxCommands) replay() *cobra.Command {
	var by relay.By
	var r relay.Replay
	var from, to string
	cmd := &cobra.Command{
		Use:   "replay --from TIME",
		Short: "Have a subscription publish events again; who did it, and why, is recorded",
		Long: `Have a subscription publish events again, with the ids that they have; its relays may go on meanwhile. Without --to its cursors
go back to --from, and all that came after is published again, in order. With --to, only the events written between the two
times are published again, beside what is new. A few events before --from may come along.

Consumers with an inbox that still has the events' ids drop what they know. --dry-run counts the events and changes nothing.

Exit status: 0 done, 2 could not run to its end.`,
		Example: `  endstate outbox replay --subscription partner --from 2026-05-01T00:00:00Z --dry-run --by ann --reason 'what would it be?'
  endstate outbox replay --subscription partner --from 24h --by ann --reason 'the partner lost a day'`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			var fromErr, toErr error
			r.From, fromErr = parseTime("from", from)
			r.To, toErr = parseTime("to", to)
			return errors.Join(fromErr, toErr)
		},
		RunE: o.on(writes, func(ctx context.Context, admin *relay.Admin, _ []string) error {
			o.progress().busy("replay")
			done, err := admin.Replay(ctx, by, r)
			if err != nil {
				return err
			}
			result := struct {
				Events  int64 `json:"events"`
				AtLeast bool  `json:"at_least"` // the count was broken off
				DryRun  bool  `json:"dry_run"`
			}{done.Events, done.AtLeast, r.DryRun}
			return o.print(result, func(w io.Writer) {
				text, be := count(done.Events, "event"), "to be"
				if done.AtLeast {
					text += " or more"
				}
				if r.DryRun {
					be = "would be"
				}
				fmt.Fprintf(w, "%s %s published again\n", text, be)
			})
		}),
	}
	byFlags(cmd, &by)
	cmd.Flags().StringVar(&from, "from", "", "a `TIME` such as 2026-05-01T00:00:00Z, or how long ago, such as 24h")
	_ = cmd.MarkFlagRequired("from") // it exists
	cmd.Flags().StringVar(&to, "to", "", "only events before this `TIME`")
	cmd.Flags().BoolVar(&r.Dead, "dead", false, "dead letters, too")
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "count the events, and change nothing")
	return cmd
}

// needs refuses a command line without a flag that has no sensible default.
func needs(flag, how string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if !cmd.Flags().Changed(flag) {
			return fmt.Errorf("give --%s, %s", flag, how)
		}
		return nil
	}
}

// drop is the command that removes a subscription.
func (o *outboxCommands) drop() *cobra.Command {
	var by relay.By
	cmd := &cobra.Command{
		Use:   "drop --subscription NAME",
		Short: "Remove a subscription that is gone for good; who did it, and why, is recorded",
		Long: `Remove a subscription that is gone for good, with its cursors and dead letters, so that retention doesn't wait for it. While a
relay publishes it, that is refused. A relay that joins it later starts it anew.

Exit status: 0 done, 2 could not run to its end.`,
		Example: "  endstate outbox drop --subscription partner --by ann --reason 'the contract has ended'",
		Args:    cobra.NoArgs,
		PreRunE: needs("subscription", "the one to remove"),
		RunE: o.on(writes, func(ctx context.Context, admin *relay.Admin, _ []string) error {
			if err := admin.Drop(ctx, by); err != nil {
				return err
			}
			return o.print(struct {
				Dropped string `json:"dropped"`
			}{by.Subscription}, func(w io.Writer) { fmt.Fprintf(w, "%s dropped\n", graphic(by.Subscription)) })
		}),
	}
	byFlags(cmd, &by)
	return cmd
}

// purge is the command that deletes published events.
func (o *outboxCommands) purge() *cobra.Command {
	var olderThan time.Duration
	cmd := &cobra.Command{
		Use:   "purge --older-than DURATION",
		Short: "Delete events that were published long ago",
		Long: `Delete events that were published long ago, in small batches that stop no relay. Events that aren't published, and dead
letters, stay. The deduplication of deleted events ends, save what the ledger keeps.`,
		Example: "  endstate outbox purge --older-than 720h",
		Args:    cobra.NoArgs,
		PreRunE: needs("older-than", "such as 720h; 0s deletes all that is published"),
		RunE: o.on(writes, func(ctx context.Context, admin *relay.Admin, _ []string) error {
			o.progress().busy("purge")
			deleted, err := admin.Purge(ctx, olderThan)
			if err != nil {
				if deleted > 0 {
					err = fmt.Errorf("%s deleted, then: %w", count(deleted, "event"), err)
				}
				return err
			}
			return o.print(struct {
				Deleted int64 `json:"deleted"`
			}{deleted}, func(w io.Writer) { fmt.Fprintf(w, "%s deleted\n", count(deleted, "event")) })
		}),
	}
	cmd.Flags().DurationVar(&olderThan, "older-than", 0, "the `DURATION` for which published events stay")
	return cmd
}
