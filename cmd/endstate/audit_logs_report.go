package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/endstate-go/endstate"
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

func (s *logScan) report() *logReport {
	worst := s.worst()
	r := &logReport{Lines: s.lines, BadLines: s.badLines, Aggregates: int64(len(s.aggregates)), Finalizations: s.finalizations, Starts: s.starts,
		Repeated: int64(len(worst)), Worst: worst[:min(len(worst), max(s.cfg.top, 0))], Bad: s.bad}
	if r.Worst == nil {
		r.Worst = []loggedAggregate{}
	}
	if r.Bad == nil {
		r.Bad = []badLine{}
	}
	return r
}

func (r *logReport) text(w io.Writer) {
	t := newTable()
	t.row("lines", r.Lines, "")
	t.row("lines that can't be read", r.BadLines, "")
	t.row("unique aggregates", r.Aggregates, "")
	t.row("finalizations", r.Finalizations, "")
	t.row("starts", r.Starts, "")
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
			t.row(strings.TrimSpace(a.Type+" "+a.ID), a.Finalizations, a.Starts, timeCell(a.First), timeCell(a.Last), strings.Join(a.Triggers, " "))
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
func (a *app) holdAgainst(ctx context.Context, cfg audit.Config, scan *logScan) (*heldAgainst, error) {
	db, err := a.open(ctx, reads)
	if err != nil {
		return nil, err
	}
	defer db.close()
	schema, name, err := db.table(ctx, cfg.Schema, cfg.Table)
	if err != nil {
		return nil, err
	}
	held := &heldAgainst{Table: name, Examples: []string{}}
	repeated := map[string]bool{} // by the id as the table has it
	for key, logged := range scan.aggregates {
		if logged.finalizations > 1 {
			held.Guarded++
			id := key.id
			if len(cfg.Aggregate) > 1 && key.kind != "" {
				id = key.kind + "/" + key.id
			}
			repeated[id] = true
		}
	}
	var ids []string
	for _, column := range cfg.Aggregate {
		ids = append(ids, fmt.Sprintf("CAST(%s AS text)", quote("", column)))
	}
	if err := db.missing(ctx, schema, name, append([]string{cfg.Type}, cfg.Aggregate...)); err != nil {
		return nil, err
	}
	query := fmt.Sprintf("SELECT DISTINCT %s FROM %s WHERE %s IS NOT NULL GROUP BY %s, %s HAVING count(*) > 1 ORDER BY 1",
		strings.Join(ids, " || '/' || "), quote(schema, name), quoted(cfg.Aggregate[:1]), quoted(cfg.Aggregate), quoted([]string{cfg.Type}))
	err = db.read(ctx, func(q endstate.Querier) error {
		rows, err := q.Query(ctx, query)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			held.Duplicated++
			if repeated[id] {
				held.Both++
				held.Guarded--
			} else {
				held.Unseen++
			}
			if len(held.Examples) < scan.cfg.top {
				held.Examples = append(held.Examples, id)
			}
		}
		return rows.Err()
	})
	return held, err
}
