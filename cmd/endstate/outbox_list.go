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
		Short: "List events in the order in which they were put",
		Example: `  endstate outbox list --state dead
  endstate outbox list --aggregate-type batch --aggregate-id 7 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter.State = relay.State(state)
			return a.outboxList(cmd.Context(), writer, filter)
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "only events in this `STATE`: pending, retrying, behind (a failed one of their aggregate), dead, published")
	filterFlags(cmd, &filter)
	cmd.Flags().Int64Var(&filter.AfterSeq, "after", 0, "only events after this `SEQ`, for the next page")
	cmd.Flags().IntVar(&filter.Limit, "limit", 100, "list `N` events")
	return cmd
}

// filterFlags are the flags that say which events are meant.
func filterFlags(cmd *cobra.Command, filter *relay.Filter) {
	cmd.Flags().StringVar(&filter.Type, "type", "", "only events of this `TYPE`")
	cmd.Flags().StringVar(&filter.AggregateType, "aggregate-type", "", "only events of aggregates of this `TYPE`")
	cmd.Flags().StringVar(&filter.AggregateID, "aggregate-id", "", "only events of the aggregate with this `ID`")
}

func (a *app) outboxList(ctx context.Context, writer *outbox.Writer, filter relay.Filter) error {
	admin, db, err := a.admin(ctx, reads, writer)
	if err != nil {
		return err
	}
	defer db.close()
	records, err := admin.List(ctx, filter)
	if err != nil {
		return err
	}
	result := struct {
		Events []eventResult `json:"events"`
	}{[]eventResult{}}
	for _, r := range records {
		result.Events = append(result.Events, newEventResult(r))
	}
	return a.print(result, func(w io.Writer) {
		if len(records) == 0 {
			fmt.Fprintln(w, "No events.")
			return
		}
		t := newTable("seq", "id", "type", "aggregate", "state", "created", "attempts", "last error")
		for _, r := range records {
			t.row(r.Seq, r.ID, r.Type, aggregate(r.Event), r.State, r.CreatedAt, r.Attempts, r.LastError)
		}
		t.write(w)
		if len(records) == filter.Limit {
			fmt.Fprintf(w, "There may be more: --after %d\n", records[len(records)-1].Seq)
		}
	})
}
