package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// newOutboxShow is the command that shows one event.
func newOutboxShow(a *app, writer *outbox.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show an event with its payload, its way through each subscription, and what people did with it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			return a.outboxShow(cmd.Context(), writer, ids[0])
		},
	}
}

func (a *app) outboxShow(ctx context.Context, writer *outbox.Writer, id uuid.UUID) error {
	admin, db, err := a.admin(ctx, reads, writer)
	if err != nil {
		return err
	}
	defer db.close()
	s, err := admin.Show(ctx, id)
	if err != nil {
		return err
	}
	return a.print(s, func(w io.Writer) { writeEvent(w, s) })
}

func writeEvent(w io.Writer, s relay.Shown) {
	t := newTable()
	for _, f := range []struct {
		name  string
		value any
	}{
		{"id", s.ID}, {"type", s.Type}, {"aggregate", aggregate(s.Event)}, {"seq", fmt.Sprint(s.Seq)}, {"partition", fmt.Sprint(s.Partition)},
		{"created", s.CreatedAt}, {"occurred", s.OccurredAt}, {"dedup key", s.DedupKey},
		{"schema version", fmt.Sprint(s.SchemaVersion)}, {"content type", s.ContentType},
	} {
		t.row(f.name, f.value)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		t.row("header "+name, s.Headers[name])
	}
	t.write(w)
	if len(s.Deliveries) > 0 {
		fmt.Fprintln(w)
		t = newTable("subscription", "state", "published by", "attempts", "crashes", "next attempt", "dead")
		for _, d := range s.Deliveries {
			t.row(d.Subscription, d.State, timeCell(optional(d.PublishedBy)), d.Attempts, d.Crashes, timeCell(optional(d.NextAttemptAt)), timeCell(optional(d.DeadAt)))
		}
		t.write(w)
	}
	for _, d := range s.Deliveries {
		if d.LastError != "" {
			fmt.Fprintf(w, "\nlast error in %s:\n%s", graphic(d.Subscription), lines(d.LastError))
		}
	}
	fmt.Fprintf(w, "\npayload, %s:\n%s", count(len(s.Payload), "byte"), lines(string(s.Payload)))
	if len(s.History) > 0 {
		fmt.Fprintln(w)
		writeHistory(w, s.History)
	}
}

func writeHistory(w io.Writer, history []relay.Intervention) {
	t := newTable("when", "subscription", "what", "by", "reason", "attempts", "last error", "detail")
	for _, i := range history {
		t.row(i.At, i.Subscription, i.Action, i.Who, i.Why, i.Attempts, i.LastError, i.Detail)
	}
	t.write(w)
}

// lines is a text in full, line by line.
func lines(text string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		b.WriteString(graphic(line) + "\n")
	}
	return b.String()
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
