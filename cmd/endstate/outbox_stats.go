package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// newOutboxStats is the command that counts what waits.
func newOutboxStats(a *app, writer *outbox.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Count what waits and what is dead in each subscription, and list the relays",
		Long: `Count what waits and what is dead in each subscription, and list the relays that run. It goes by indexes, as far as a limit,
so that it may be asked often.

Exit status: 0 nothing is dead or blocked, 1 something is, 2 could not look.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.outboxStats(cmd.Context(), writer) },
	}
}

func (a *app) outboxStats(ctx context.Context, writer *outbox.Writer) error {
	admin, db, err := a.admin(ctx, reads, writer)
	if err != nil {
		return err
	}
	defer db.close()
	list, err := admin.Stats(ctx)
	if err != nil {
		return err
	}
	found := false
	type figures struct {
		relay.Stats
		OldestSeconds float64 `json:"oldest_seconds"`
	}
	result := struct {
		Subscriptions []figures `json:"subscriptions"`
	}{[]figures{}}
	for _, s := range list {
		found = found || s.Dead > 0 || len(s.Blocked) > 0
		result.Subscriptions = append(result.Subscriptions, figures{s, s.OldestAge.Seconds()})
	}
	if err := a.print(result, func(w io.Writer) {
		for i, s := range list {
			if i > 0 {
				fmt.Fprintln(w)
			}
			writeStats(w, s)
		}
		if len(list) == 0 {
			fmt.Fprintln(w, "No subscriptions: no relay ever ran on this outbox.")
		}
	}); err != nil {
		return err
	}
	if found {
		return errFound
	}
	return nil
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
		to = "a destination that its relays don't say"
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
		fmt.Fprintf(w, "  partition %d is blocked since %s, at event %s: %s\n", b.Partition, b.Since.Format(time.RFC3339), b.EventID, graphic(b.Why))
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
