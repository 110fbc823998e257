package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// stats is the command that counts what waits.
func (o *outboxCommands) stats() *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Count what waits and what is dead in each subscription, and list the relays",
		Long: `Count what waits and what is dead in each subscription, and list the relays that run. It goes by indexes, as far as a limit,
so that it may be asked often.

Exit status: 0 nothing is dead or blocked, 1 something is, 2 could not look.`,
		Args: cobra.NoArgs,
		RunE: o.on(reads, func(ctx context.Context, admin *relay.Admin, _ []string) error {
			list, err := admin.Stats(ctx)
			if err != nil {
				return err
			}
			type figures struct {
				relay.Stats
				OldestSeconds float64 `json:"oldest_seconds"`
			}
			result := struct {
				Subscriptions []figures `json:"subscriptions"`
			}{[]figures{}}
			for _, s := range list {
				result.Subscriptions = append(result.Subscriptions, figures{s, s.OldestAge.Seconds()})
			}
			err = o.print(result, func(w io.Writer) {
				for i, s := range list {
					if i > 0 {
						fmt.Fprintln(w)
					}
					writeStats(w, s)
				}
				if len(list) == 0 {
					fmt.Fprintln(w, "No subscriptions: no relay ever ran on this outbox.")
				}
			})
			return orFound(err, slices.ContainsFunc(list, func(s relay.Stats) bool { return s.Dead > 0 || len(s.Blocked) > 0 }))
		}),
	}
}

func writeStats(w io.Writer, s relay.Stats) {
	note := func(n int64, text string) string {
		if n >= relay.StatsLimit {
			return "or more; " + text
		}
		return text
	}
	to, types := s.Destination, "all types"
	if to == "" {
		to = "an unnamed destination"
	}
	if len(s.Types) > 0 {
		types = strings.Join(s.Types, ", ")
	}
	fmt.Fprintf(w, "%s: %s, to %s\n", graphic(s.Subscription), graphic(types), graphic(to))
	figures := newTable()
	figures.row("  pending", s.Pending, note(s.Pending, "may go out at once"))
	figures.row("  retrying", s.Retrying, note(s.Retrying, "failed, or wait behind one that did"))
	figures.row("  dead", s.Dead, note(s.Dead, "given up: see outbox list --state dead"))
	figures.row("  oldest", s.OldestAge.Round(time.Second), "age of the oldest that isn't published")
	figures.row("  rate", s.Rate, "events a second, lately")
	figures.row("  partitions without a relay", s.Unowned, fmt.Sprintf("of %d", outbox.Partitions))
	figures.write(w)
	for _, b := range s.Blocked {
		fmt.Fprintf(w, "  partition %d has been blocked since %s, at event %s: %s\n", b.Partition, b.Since.Format(time.RFC3339), b.EventID, graphic(b.Why))
	}
	if len(s.Relays) == 0 {
		fmt.Fprintln(w, "  No relay runs.")
		return
	}
	fmt.Fprintln(w)
	relays := newTable("  relay", "started", "partitions", "published", "rate")
	for _, r := range s.Relays {
		relays.row("  "+r.Name, r.StartedAt, r.Partitions, r.Published, r.Rate)
	}
	relays.write(w)
}

// list is the command that lists events.
func (o *outboxCommands) list() *cobra.Command {
	var filter relay.Filter
	var state string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List events in the order in which they were put, with what became of them in a subscription",
		Example: `  endstate outbox list --state dead
  endstate outbox list --aggregate-type batch --aggregate-id 7 --newest --json`,
		Args: cobra.NoArgs,
		RunE: o.on(reads, func(ctx context.Context, admin *relay.Admin, _ []string) error {
			filter.State = relay.State(state)
			result := struct {
				Events []relay.Record `json:"events"`
				Next   int64          `json:"next"` // for --after; 0: there are no more
			}{Events: []relay.Record{}}
			for limit := filter.Limit; ; { // a page may be shorter than the limit
				page, err := admin.List(ctx, filter)
				if err != nil {
					return err
				}
				result.Events, result.Next = append(result.Events, page.Records...), page.Next
				if filter.After, filter.Limit = page.Next, limit-len(result.Events); page.Next == 0 || filter.Limit <= 0 {
					break
				}
			}
			return o.print(result, func(w io.Writer) {
				if len(result.Events) == 0 {
					fmt.Fprintln(w, "No events.")
					return
				}
				t := newTable("seq", "id", "type", "aggregate", "state", "created", "attempts", "last error")
				for _, r := range result.Events {
					t.row(r.Seq, r.ID, r.Type, aggregate(r.Event), r.State, r.CreatedAt, r.Attempts, r.LastError)
				}
				t.write(w)
				if result.Next != 0 {
					fmt.Fprintf(w, "There may be more: --after %d\n", result.Next)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&state, "state", "", "only events in this `STATE`: pending, retrying, behind (a failed one of their aggregate), dead, published")
	subscriptionFlag(cmd, &filter.Subscription)
	filterFlags(cmd, &filter)
	cmd.Flags().BoolVar(&filter.Newest, "newest", false, "the newest first")
	cmd.Flags().Int64Var(&filter.After, "after", 0, "go on after this `SEQ`, for the next page")
	cmd.Flags().IntVar(&filter.Limit, "limit", 100, "list `N` events")
	return cmd
}

// show is the command that shows one event.
func (o *outboxCommands) show() *cobra.Command {
	var ids []uuid.UUID
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show an event with its payload, its way through each subscription, and what people did with it",
		Args:  cobra.ExactArgs(1),
		PreRunE: func(_ *cobra.Command, args []string) (err error) {
			ids, err = parseIDs(args)
			return err
		},
		RunE: o.on(reads, func(ctx context.Context, admin *relay.Admin, _ []string) error {
			s, err := admin.Show(ctx, ids[0])
			if err != nil {
				return err
			}
			return o.print(s, func(w io.Writer) { writeEvent(w, s) })
		}),
	}
}

func writeEvent(w io.Writer, s relay.Shown) {
	t := newTable()
	t.row("id", s.ID)
	t.row("type", s.Type)
	t.row("aggregate", aggregate(s.Event))
	t.row("seq", fmt.Sprint(s.Seq))
	t.row("partition", fmt.Sprint(s.Partition))
	t.row("created", s.CreatedAt)
	t.row("occurred", s.OccurredAt)
	t.row("dedup key", s.DedupKey)
	t.row("schema version", fmt.Sprint(s.SchemaVersion))
	t.row("content type", s.ContentType)
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		t.row("header "+name, s.Headers[name])
	}
	t.write(w)
	if len(s.Deliveries) > 0 {
		fmt.Fprintln(w)
		t = newTable("subscription", "state", "published by", "attempts", "crashes", "next attempt", "dead")
		for _, d := range s.Deliveries {
			t.row(d.Subscription, d.State, d.PublishedBy, d.Attempts, d.Crashes, d.NextAttemptAt, d.DeadAt)
		}
		t.write(w)
	}
	for _, d := range s.Deliveries {
		if d.LastError != "" {
			fmt.Fprintf(w, "\nlast error in %s:\n%s\n", graphic(d.Subscription), d.LastError)
		}
	}
	fmt.Fprintf(w, "\npayload, %s:\n%s\n", count(len(s.Payload), "byte"), s.Payload)
	if len(s.History) > 0 {
		fmt.Fprintln(w)
		writeHistory(w, s.History)
	}
}

// history is the command that lists what people did.
func (o *outboxCommands) history() *cobra.Command {
	var subscription string
	var before int64
	var limit int
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List what people did with dead letters and subscriptions, the latest first",
		Args:  cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if limit < 1 {
				return fmt.Errorf("--limit is %d", limit)
			}
			return nil
		},
		RunE: o.on(reads, func(ctx context.Context, admin *relay.Admin, _ []string) error {
			result := struct {
				History []relay.Intervention `json:"history"`
				Next    int64                `json:"next"` // for --before; 0: there are no more
			}{[]relay.Intervention{}, before}
			for first := true; first || result.Next != 0 && len(result.History) < limit; first = false {
				list, next, err := admin.History(ctx, subscription, result.Next, min(limit-len(result.History), 1000))
				if err != nil {
					return err
				}
				result.History, result.Next = append(result.History, list...), next
			}
			return o.print(result, func(w io.Writer) {
				if len(result.History) == 0 {
					fmt.Fprintln(w, "No actions are recorded.")
					return
				}
				writeHistory(w, result.History)
				if result.Next != 0 {
					fmt.Fprintf(w, "There may be more: --before %d\n", result.Next)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&subscription, "subscription", "", "only of this `SUBSCRIPTION`")
	cmd.Flags().Int64Var(&before, "before", 0, "go on before this `NUMBER`, for the next page")
	cmd.Flags().IntVar(&limit, "limit", 100, "list `N` entries")
	return cmd
}

func writeHistory(w io.Writer, history []relay.Intervention) {
	t := newTable("when", "subscription", "what", "by", "reason", "attempts", "last error", "detail")
	for _, i := range history {
		t.row(i.At, i.Subscription, i.Action, i.Who, i.Why, i.Attempts, i.LastError, i.Detail)
	}
	t.write(w)
}
