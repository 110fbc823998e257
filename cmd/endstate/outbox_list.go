package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// newOutboxList is the command that lists events.
func newOutboxList(a *app, writer *outbox.Writer) *cobra.Command {
	var filter relay.Filter
	var state string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List events in the order in which they were put, with what became of them in a subscription",
		Example: `  endstate outbox list --state dead
  endstate outbox list --aggregate-type batch --aggregate-id 7 --newest --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter.State = relay.State(state)
			return a.outboxList(cmd.Context(), writer, filter)
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "only events in this `STATE`: pending, retrying, behind (a failed one of their aggregate), dead, published")
	subscriptionFlag(cmd, &filter.Subscription)
	filterFlags(cmd, &filter)
	cmd.Flags().BoolVar(&filter.Newest, "newest", false, "the newest first")
	cmd.Flags().Int64Var(&filter.After, "after", 0, "go on after this `SEQ`, for the next page")
	cmd.Flags().IntVar(&filter.Limit, "limit", 100, "list `N` events")
	return cmd
}

// filterFlags are the flags that say which events are meant.
func filterFlags(cmd *cobra.Command, filter *relay.Filter) {
	cmd.Flags().StringVar(&filter.Type, "type", "", "only events of this `TYPE`")
	cmd.Flags().StringVar(&filter.AggregateType, "aggregate-type", "", "only events of aggregates of this `TYPE`")
	cmd.Flags().StringVar(&filter.AggregateID, "aggregate-id", "", "only events of the aggregate with this `ID`")
	cmd.Flags().StringVar(&filter.Error, "error", "", "only events whose last error has this `TEXT` in it")
	cmd.Flags().DurationVar(&filter.OlderThan, "older-than", 0, "only events created longer ago than this `DURATION`")
}

func (a *app) outboxList(ctx context.Context, writer *outbox.Writer, filter relay.Filter) error {
	admin, db, err := a.admin(ctx, reads, writer)
	if err != nil {
		return err
	}
	defer db.close()
	page, err := list(ctx, admin, filter)
	if err != nil {
		return err
	}
	result := struct {
		Events []relay.Record `json:"events"`
		Next   int64          `json:"next"` // for --after; 0: there are no more
	}{append([]relay.Record{}, page.Records...), page.Next}
	return a.print(result, func(w io.Writer) {
		if len(page.Records) == 0 {
			fmt.Fprintln(w, "No events.")
			return
		}
		t := newTable("seq", "id", "type", "aggregate", "state", "created", "attempts", "last error")
		for _, r := range page.Records {
			t.row(r.Seq, r.ID, r.Type, aggregate(r.Event), r.State, r.CreatedAt, r.Attempts, r.LastError)
		}
		t.write(w)
		if page.Next != 0 {
			fmt.Fprintf(w, "There may be more: --after %d\n", page.Next)
		}
	})
}

// list goes on until it has as many events as the filter asks for, or all there are.
func list(ctx context.Context, admin *relay.Admin, filter relay.Filter) (relay.Page, error) {
	var all relay.Page
	for limit := filter.Limit; ; {
		page, err := admin.List(ctx, filter)
		if err != nil {
			return all, err
		}
		all.Records, all.Next = append(all.Records, page.Records...), page.Next
		if filter.After, filter.Limit = page.Next, limit-len(all.Records); page.Next == 0 || filter.Limit <= 0 {
			return all, nil
		}
	}
}
