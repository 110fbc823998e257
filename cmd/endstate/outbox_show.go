package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// newOutboxShow is the command that shows one event.
func newOutboxShow(a *app, writer *outbox.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show an event with its payload, and what people did with it",
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

// eventResult is an relay.Record in JSON.
type eventResult struct {
	Seq           int64             `json:"seq"`
	ID            uuid.UUID         `json:"id"`
	Type          string            `json:"type"`
	AggregateType string            `json:"aggregate_type"`
	AggregateID   string            `json:"aggregate_id"`
	State         relay.State       `json:"state"`
	CreatedAt     time.Time         `json:"created_at"`
	OccurredAt    time.Time         `json:"occurred_at"`
	Attempts      int               `json:"attempts"`
	Crashes       int               `json:"crashes"`
	NextAttemptAt *time.Time        `json:"next_attempt_at"`
	LastError     string            `json:"last_error,omitempty"`
	DeadAt        *time.Time        `json:"dead_at"`
	DedupKey      string            `json:"dedup_key,omitempty"`
	Partition     int               `json:"partition"`
	SchemaVersion int               `json:"schema_version"`
	ContentType   string            `json:"content_type"`
	Headers       map[string]string `json:"headers"`
}

func newEventResult(r relay.Record) eventResult {
	return eventResult{
		r.Seq, r.ID, r.Type, r.AggregateType, r.AggregateID, r.State, r.CreatedAt.UTC(), r.OccurredAt.UTC(), r.Attempts, r.Crashes,
		optional(r.NextAttemptAt), r.LastError, optional(r.DeadAt), r.DedupKey, r.Partition, r.SchemaVersion,
		r.ContentType, r.Headers,
	}
}

type interventionResult struct {
	At        time.Time `json:"at"`
	Action    string    `json:"action"`
	By        string    `json:"by"`
	Reason    string    `json:"reason"`
	Attempts  int       `json:"attempts"`
	LastError string    `json:"last_error,omitempty"`
}

func (a *app) outboxShow(ctx context.Context, writer *outbox.Writer, id uuid.UUID) error {
	admin, db, err := a.admin(ctx, reads, writer)
	if err != nil {
		return err
	}
	defer db.close()
	r, history, err := admin.Show(ctx, id)
	if err != nil {
		return err
	}
	result := struct {
		eventResult
		// Payload is the text of one that is UTF-8, PayloadBase64 the bytes of any other.
		Payload       *string              `json:"payload,omitempty"`
		PayloadBase64 string               `json:"payload_base64,omitempty"`
		History       []interventionResult `json:"history"`
	}{eventResult: newEventResult(r), History: []interventionResult{}}
	if text := string(r.Payload); utf8.ValidString(text) {
		result.Payload = &text
	} else {
		result.PayloadBase64 = base64.StdEncoding.EncodeToString(r.Payload)
	}
	for _, i := range history {
		result.History = append(result.History, interventionResult{i.At.UTC(), i.Action, i.By, i.Why, i.Attempts, i.LastError})
	}
	return a.print(result, func(w io.Writer) { writeEvent(w, r, history) })
}

func writeEvent(w io.Writer, r relay.Record, history []relay.Intervention) {
	t := newTable()
	for _, f := range []struct {
		name  string
		value any
	}{
		{"id", r.ID}, {"type", r.Type}, {"aggregate", aggregate(r.Event)}, {"state", r.State}, {"seq", fmt.Sprint(r.Seq)},
		{"created", r.CreatedAt}, {"occurred", r.OccurredAt}, {"attempts", fmt.Sprint(r.Attempts)},
		{"crashes", fmt.Sprint(r.Crashes)}, {"next attempt", timeCell(optional(r.NextAttemptAt))},
		{"dead", timeCell(optional(r.DeadAt))}, {"dedup key", r.DedupKey}, {"partition", fmt.Sprint(r.Partition)},
		{"schema version", fmt.Sprint(r.SchemaVersion)}, {"content type", r.ContentType},
	} {
		t.row(f.name, f.value)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		t.row("header "+name, r.Headers[name])
	}
	t.write(w)
	if r.LastError != "" {
		fmt.Fprintf(w, "\nlast error:\n%s", lines(r.LastError))
	}
	fmt.Fprintf(w, "\npayload, %s:\n%s", count(len(r.Payload), "byte"), lines(string(r.Payload)))
	if len(history) == 0 {
		return
	}
	fmt.Fprintln(w)
	t = newTable("when", "what", "by", "reason", "attempts", "last error")
	for _, i := range history {
		t.row(i.At, i.Action, i.By, i.Why, i.Attempts, i.LastError)
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
