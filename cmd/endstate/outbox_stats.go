package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
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

// statsResult is relay.Stats in JSON. Ages are in seconds, rates in events a second.
type statsResult struct {
	Subscription string          `json:"subscription"`
	Destination  string          `json:"destination,omitempty"`
	Types        []string        `json:"types"` // empty: all
	Pending      int64           `json:"pending"`
	Retrying     int64           `json:"retrying"`
	Dead         int64           `json:"dead"`
	AtLeast      bool            `json:"at_least"` // a count was broken off at relay.StatsLimit
	OldestAge    float64         `json:"oldest_age"`
	Rate         float64         `json:"rate"`
	Unowned      int             `json:"unowned_partitions"`
	Relays       []relayResult   `json:"relays"`
	Blocked      []blockedResult `json:"blocked"`
}

type relayResult struct {
	ID         uuid.UUID `json:"id"`
	Name       string    `json:"name"`
	StartedAt  time.Time `json:"started_at"`
	Partitions int       `json:"partitions"`
	Published  int64     `json:"published"`
	Rate       float64   `json:"rate"`
}

type blockedResult struct {
	Partition int       `json:"partition"`
	Since     time.Time `json:"since"`
	EventID   uuid.UUID `json:"event_id"`
	Why       string    `json:"why"`
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
	result := struct {
		Subscriptions []statsResult `json:"subscriptions"`
	}{[]statsResult{}}
	for _, s := range list {
		found = found || s.Dead > 0 || len(s.Blocked) > 0
		result.Subscriptions = append(result.Subscriptions, newStatsResult(s))
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

func newStatsResult(s relay.Stats) statsResult {
	result := statsResult{s.Subscription, s.Destination, append([]string{}, s.Types...), s.Pending, s.Retrying, s.Dead, s.AtLeast, s.OldestAge.Seconds(), s.Rate, s.Unowned,
		[]relayResult{}, []blockedResult{}}
	for _, r := range s.Relays {
		result.Relays = append(result.Relays, relayResult{r.ID, r.Name, r.StartedAt, r.Partitions, r.Published, r.Rate})
	}
	for _, b := range s.Blocked {
		result.Blocked = append(result.Blocked, blockedResult{b.Partition, b.Since, b.EventID, b.Why})
	}
	return result
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
