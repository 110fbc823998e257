package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// newOutboxStats is the command that counts what waits.
func newOutboxStats(a *app, writer *outbox.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Count what waits and what is dead, and list the relays",
		Long: `Count what waits and what is dead, and list the relays that run. It reads indexes only, so that it may be asked often.

Exit status: 0 nothing is dead, 1 there are dead letters, 2 could not look.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.outboxStats(cmd.Context(), writer) },
	}
}

// statsResult is relay.Stats in JSON. Ages are in seconds, rates in events a second.
type statsResult struct {
	Pending   int64         `json:"pending"`
	Retrying  int64         `json:"retrying"`
	Dead      int64         `json:"dead"`
	AtLeast   bool          `json:"at_least"` // a count was broken off at relay.StatsLimit
	OldestAge float64       `json:"oldest_age"`
	Rate      float64       `json:"rate"`
	Unowned   int           `json:"unowned_partitions"`
	Relays    []relayResult `json:"relays"`
}

type relayResult struct {
	Name       string    `json:"name"`
	ID         string    `json:"id"`
	StartedAt  time.Time `json:"started_at"`
	Partitions int       `json:"partitions"`
	Published  int64     `json:"published"`
	Rate       float64   `json:"rate"`
}

func (a *app) outboxStats(ctx context.Context, writer *outbox.Writer) error {
	admin, db, err := a.admin(ctx, reads, writer)
	if err != nil {
		return err
	}
	defer db.close()
	s, err := admin.Stats(ctx)
	if err != nil {
		return err
	}
	result := statsResult{s.Pending, s.Retrying, s.Dead, s.AtLeast, s.OldestAge.Seconds(), s.Rate, s.Unowned, []relayResult{}}
	for _, r := range s.Relays {
		result.Relays = append(result.Relays, relayResult{r.Name, r.ID, r.StartedAt, r.Partitions, r.Published, r.Rate})
	}
	if err := a.print(result, func(w io.Writer) { writeStats(w, s) }); err != nil {
		return err
	}
	if s.Dead > 0 {
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
	figures := newTable()
	figures.row("pending", s.Pending, note(s.Pending, "may go out at once"))
	figures.row("retrying", s.Retrying, note(s.Retrying, "failed, or wait behind one that did"))
	figures.row("dead", s.Dead, note(s.Dead, "given up: see outbox list --state dead"))
	figures.row("oldest", s.OldestAge.Round(time.Second), "age of the oldest that isn't published")
	figures.row("rate", s.Rate, "events a second, lately")
	figures.row("partitions without a relay", s.Unowned, fmt.Sprintf("of %d", outbox.Partitions))
	figures.write(w)
	if len(s.Relays) == 0 {
		fmt.Fprintln(w, "\nNo relay runs.")
		return
	}
	fmt.Fprintln(w)
	relays := newTable("relay", "started", "partitions", "published", "rate")
	for _, r := range s.Relays {
		relays.row(r.Name, r.StartedAt, r.Partitions, r.Published, r.Rate)
	}
	relays.write(w)
}
