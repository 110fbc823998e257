package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox/audit"
)

// logReport is what logs say.
type logReport struct {
	Lines         int64             `json:"lines"`
	BadLines      int64             `json:"bad_lines"`
	Aggregates    int64             `json:"unique_aggregates"`
	Finalizations int64             `json:"finalizations"`
	Starts        int64             `json:"starts"`
	Repeated      int64             `json:"repeated_aggregates"`
	Worst         []loggedAggregate `json:"worst"`
	Bad           []badLine         `json:"first_bad_lines"`
	Untracked     int64             `json:"untracked"`        // messages of aggregates that memory is too small for
	Unread        []string          `json:"unread,omitempty"` // files that couldn't be read to their end, and why
	Outbox        *heldAgainst      `json:"outbox,omitempty"`
}

// loggedAggregate is an aggregate that was finalized several times, if the logs are right.
type loggedAggregate struct {
	ID            string     `json:"aggregate_id"`
	Type          string     `json:"aggregate_type,omitempty"` // where the logs tell it
	Finalizations int64      `json:"finalizations"`
	Starts        int64      `json:"starts"`
	First         *time.Time `json:"first"`
	Last          *time.Time `json:"last"`
	Triggers      []string   `json:"triggers"` // in the order in which they came
}

// heldAgainst is what an outbox says of the same aggregates.
type heldAgainst struct {
	Table      string   `json:"table"`
	Guarded    int64    `json:"repeated_in_logs_only"`       // the guard worked
	Both       int64    `json:"repeated_in_both"`            // it didn't
	Unseen     int64    `json:"repeated_in_database_only"`   // the logs don't show why
	Duplicated int64    `json:"repeated_in_database"`        // Both and Unseen
	Examples   []string `json:"repeated_in_database_sample"` // some of these
}

// report is what was counted, with the aggregates that have more than one finalization, the most first.
func (s *logScan) report() *logReport {
	s.Aggregates = int64(len(s.aggregates))
	for _, a := range s.aggregates {
		if a.Finalizations > 1 {
			s.Worst = append(s.Worst, *a)
		}
	}
	slices.SortFunc(s.Worst, func(a, b loggedAggregate) int {
		return cmp.Or(cmp.Compare(b.Finalizations, a.Finalizations), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Type, b.Type))
	})
	s.Repeated = int64(len(s.Worst))
	s.Worst = s.Worst[:min(len(s.Worst), max(s.cfg.top, 0))]
	return &s.logReport
}

// incomplete says why the report doesn't mean what it seems to: where nothing was found, nothing may have been looked for.
func (s *logScan) incomplete() error {
	switch {
	case s.Untracked > 0:
		return fmt.Errorf("%d messages are of aggregates that didn't fit into memory, and aren't counted: run it with --part 1/4, 2/4, 3/4 and 4/4, or more parts", s.Untracked)
	case s.matched || s.Starts > 0 && !s.cfg.named || s.cfg.parts > 1 && len(s.others) == 0 && s.BadLines == 0 && s.Lines > 0:
		return nil
	case s.Lines == 0:
		return errors.New("no finalization was found: there is no line at all")
	case s.samples == 0 && s.BadLines > 0 && len(s.Bad) > 0:
		return fmt.Errorf("no finalization was found: lines are %s", s.Bad[0].Why)
	case len(s.others) > 0:
		return fmt.Errorf("no finalization was found: no message matches --message; there are others, such as %q (--message-key names the field)", s.others)
	}
	return errors.New("no finalization was found: no line matches --message (--message-key names the field, --pattern is for text)")
}

func (r *logReport) text(w io.Writer) {
	t := newTable()
	t.row("lines", r.Lines, "")
	t.row("lines that can't be read", r.BadLines, "")
	t.row("unique aggregates", r.Aggregates, "")
	t.row("finalizations", r.Finalizations, "")
	t.row("starts", r.Starts, "")
	if r.Untracked > 0 {
		t.row("not counted", r.Untracked, "messages of further aggregates, which memory is too small for")
	}
	t.row("repeated aggregates", r.Repeated, "finalized more than once, if the logs are right")
	if o := r.Outbox; o != nil {
		t.row("repeated in the logs only", o.Guarded, "the guard worked: no duplicate is in "+o.Table)
		t.row("repeated in both", o.Both, "no guard, or one that events went past")
		t.row("repeated in the table only", o.Unseen, "the logs don't show it")
	}
	t.write(w)
	if len(r.Worst) > 0 {
		fmt.Fprintf(w, "\nThe worst aggregates, with their triggers in the order in which they came:\n\n")
		t := newTable("aggregate", "finalizations", "starts", "first", "last", "triggers")
		for _, a := range r.Worst {
			t.row(strings.TrimSpace(a.Type+" "+a.ID), a.Finalizations, a.Starts, a.First, a.Last, strings.Join(a.Triggers, " "))
		}
		t.write(w)
	}
	if len(r.Bad) > 0 {
		fmt.Fprintf(w, "\nThe first lines that can't be read:\n\n")
		for _, b := range r.Bad {
			fmt.Fprintf(w, "%s:%d: %s: %s\n", printable(b.File), b.Line, b.Why, b.Text)
		}
	}
	if r.Outbox != nil && len(r.Outbox.Examples) > 0 {
		fmt.Fprintf(w, "\nRepeated in %s: %s\n", printable(r.Outbox.Table), printable(strings.Join(r.Outbox.Examples, ", ")))
	}
}

// holdAgainst compares what the logs repeat with what an outbox table does.
func (a *app) holdAgainst(cmd *cobra.Command, cfg audit.Config, scan *logScan) (*heldAgainst, error) {
	ctx := cmd.Context()
	db, err := a.open(ctx, reads)
	if err != nil {
		return nil, err
	}
	defer db.close()
	schema, name, err := db.table(ctx, cfg.Schema, cfg.Table)
	if err != nil {
		return nil, err
	}
	cfg.Schema, cfg.Table = schema, name
	if err := db.ownColumns(cmd, &cfg); err != nil {
		return nil, err
	}
	held := &heldAgainst{Table: name, Examples: []string{}}
	repeated, byID := map[logKey]bool{}, map[string]bool{}
	for key, logged := range scan.aggregates {
		if logged.Finalizations > 1 {
			held.Guarded++
			repeated[key], byID[key.id] = true, true
		}
	}
	var ids []string
	for _, column := range cfg.Aggregate {
		ids = append(ids, fmt.Sprintf("CAST(%s AS text)", quote("", column)))
	}
	last := len(ids) - 1
	kinds := "''"
	if last > 0 {
		kinds = strings.Join(ids[:last], " || '/' || ")
	}
	if err := db.missing(ctx, schema, name, append([]string{cfg.Type}, cfg.Aggregate...)); err != nil {
		return nil, err
	}
	var kind, id string
	query := fmt.Sprintf("SELECT DISTINCT %s, %s FROM %s WHERE %s IS NOT NULL GROUP BY %s, %s HAVING count(*) > 1 ORDER BY 1, 2",
		kinds, ids[last], quote(schema, name), quoted(cfg.Aggregate[:1]), quoted(cfg.Aggregate), quoted([]string{cfg.Type}))
	err = db.each(ctx, query, nil, []any{&kind, &id}, func() {
		held.Duplicated++
		// Logs that tell no type, or tables without one, are compared by the id alone.
		full := logKey{shortened(kind), shortened(id)}
		if repeated[full] || repeated[logKey{id: full.id}] || kind == "" && byID[full.id] {
			held.Both++
			held.Guarded--
		} else {
			held.Unseen++
		}
		if len(held.Examples) < scan.cfg.top {
			held.Examples = append(held.Examples, strings.TrimPrefix(kind+"/"+id, "/"))
		}
	})
	return held, err
}
