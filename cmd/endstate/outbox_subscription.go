package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// newOutboxReplay is the command that has events published again.
func newOutboxReplay(a *app, writer *outbox.Writer) *cobra.Command {
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
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if r.From, err = parseTime("from", from); err != nil {
				return err
			}
			if r.To, err = parseTime("to", to); err != nil {
				return err
			}
			return a.outboxReplay(cmd.Context(), writer, by, r)
		},
	}
	byFlags(cmd, &by)
	cmd.Flags().StringVar(&from, "from", "", "a `TIME` such as 2026-05-01T00:00:00Z, or how long ago, such as 24h")
	_ = cmd.MarkFlagRequired("from") // it exists
	cmd.Flags().StringVar(&to, "to", "", "only events before this `TIME`")
	cmd.Flags().BoolVar(&r.Dead, "dead", false, "dead letters, too")
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "count the events, and change nothing")
	return cmd
}

func (a *app) outboxReplay(ctx context.Context, writer *outbox.Writer, by relay.By, r relay.Replay) error {
	admin, db, err := a.admin(ctx, writes, writer)
	if err != nil {
		return err
	}
	defer db.close()
	progress := a.progress()
	progress.busy("replay")
	done, err := admin.Replay(ctx, by, r)
	progress.end()
	if err != nil {
		return err
	}
	result := struct {
		Events  int64 `json:"events"`
		AtLeast bool  `json:"at_least"` // the count was broken off
		DryRun  bool  `json:"dry_run"`
	}{done.Events, done.AtLeast, r.DryRun}
	return a.print(result, func(w io.Writer) {
		text := count(done.Events, "event")
		if done.AtLeast {
			text += " or more"
		}
		if r.DryRun {
			fmt.Fprintf(w, "%s would be published again\n", text)
			return
		}
		fmt.Fprintf(w, "%s to be published again\n", text)
	})
}

// newOutboxDrop is the command that removes a subscription.
func newOutboxDrop(a *app, writer *outbox.Writer) *cobra.Command {
	var by relay.By
	cmd := &cobra.Command{
		Use:   "drop --subscription NAME",
		Short: "Remove a subscription that is gone for good; who did it, and why, is recorded",
		Long: `Remove a subscription that is gone for good, with its cursors and dead letters, so that retention doesn't wait for it. While a
relay publishes it, that is refused. A relay that joins it later starts it anew.

Exit status: 0 done, 2 could not run to its end.`,
		Example: "  endstate outbox drop --subscription partner --by ann --reason 'the contract has ended'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("subscription") {
				return errors.New("give --subscription, the one to remove")
			}
			admin, db, err := a.admin(cmd.Context(), writes, writer)
			if err != nil {
				return err
			}
			defer db.close()
			if err := admin.Drop(cmd.Context(), by); err != nil {
				return err
			}
			return a.print(struct {
				Dropped string `json:"dropped"`
			}{by.Subscription}, func(w io.Writer) { fmt.Fprintf(w, "%s dropped\n", graphic(by.Subscription)) })
		},
	}
	byFlags(cmd, &by)
	return cmd
}

// newOutboxHistory is the command that lists what people did.
func newOutboxHistory(a *app, writer *outbox.Writer) *cobra.Command {
	var subscription string
	var before int64
	var limit int
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List what people did with dead letters and subscriptions, the latest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return fmt.Errorf("--limit is %d", limit)
			}
			admin, db, err := a.admin(cmd.Context(), reads, writer)
			if err != nil {
				return err
			}
			defer db.close()
			result := struct {
				History []relay.Intervention `json:"history"`
				Next    int64                `json:"next"` // for --before; 0: there are no more
			}{[]relay.Intervention{}, before}
			for first := true; first || result.Next != 0 && len(result.History) < limit; first = false {
				var list []relay.Intervention
				if list, result.Next, err = admin.History(cmd.Context(), subscription, result.Next, min(limit-len(result.History), 1000)); err != nil {
					return err
				}
				result.History = append(result.History, list...)
			}
			return a.print(result, func(w io.Writer) {
				if len(result.History) == 0 {
					fmt.Fprintln(w, "Nobody did anything.")
					return
				}
				writeHistory(w, result.History)
				if result.Next != 0 {
					fmt.Fprintf(w, "There may be more: --before %d\n", result.Next)
				}
			})
		},
	}
	cmd.Flags().StringVar(&subscription, "subscription", "", "only of this `SUBSCRIPTION`")
	cmd.Flags().Int64Var(&before, "before", 0, "go on before this `NUMBER`, for the next page")
	cmd.Flags().IntVar(&limit, "limit", 100, "list `N` entries")
	return cmd
}
