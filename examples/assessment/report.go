package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"
)

// report is what the program prints.
type report struct {
	Database string    `json:"database"`
	Runs     []figures `json:"runs"`
}

// figures are one run's, read back from the database.
type figures struct {
	Guard         string         `json:"guard"`
	Lock          string         `json:"lock"`
	Batches       int            `json:"batches"`
	TriggerCalls  int            `json:"trigger_calls"`
	Finalizations int            `json:"finalizations"`
	Events        int            `json:"events"`
	Duplicates    int            `json:"duplicates"`
	Percentage    float64        `json:"duplicate_percentage"`
	WorstBatch    int            `json:"worst_batch_events"`
	Premature     int            `json:"premature"`
	Scorings      int            `json:"scorings"`
	Wins          map[string]int `json:"wins"`
	Losses        map[string]int `json:"losses"`

	missing  int // batches without a completion event
	notReady int // calls that were turned away since it was too early
}

func (s *store) figures(ctx context.Context, o options) (figures, error) {
	f := figures{Guard: o.guard, Lock: "none", Wins: map[string]int{}, Losses: map[string]int{}}
	for _, t := range triggers() {
		f.Wins[t], f.Losses[t] = 0, 0
	}
	perBatch := `SELECT aggregate_id, count(*) AS n FROM event_outbox WHERE event_type = '` + completed + `' GROUP BY aggregate_id`
	if o.guard == withEndstate {
		f.Lock = o.lock
		perBatch = `SELECT aggregate_id, count(*) AS n FROM endstate_outbox WHERE type = '` + completed + `' GROUP BY aggregate_id`
	}
	for query, dest := range map[string]*int{
		`SELECT count(*) FROM batches`:                                                                    &f.Batches,
		`SELECT count(*) FROM trigger_calls`:                                                              &f.TriggerCalls,
		`SELECT count(*) FROM trigger_calls WHERE result = 'not ready'`:                                   &f.notReady,
		`SELECT count(*) FROM scorings`:                                                                   &f.Scorings,
		`SELECT count(*) FROM finalizations`:                                                              &f.Finalizations,
		`SELECT count(DISTINCT batch_id) FROM finalizations WHERE premature = 1`:                          &f.Premature,
		`SELECT coalesce(sum(n), 0) FROM (` + perBatch + `) AS e`:                                         &f.Events,
		`SELECT coalesce(max(n), 0) FROM (` + perBatch + `) AS e`:                                         &f.WorstBatch,
		`SELECT count(*) FROM batches WHERE id NOT IN (SELECT aggregate_id FROM (` + perBatch + `) AS e)`: &f.missing,
	} {
		if err := s.QueryRowContext(ctx, query).Scan(dest); err != nil {
			return f, err
		}
	}
	f.Duplicates = f.Events - f.Batches
	f.Percentage = math.Round(10_000*float64(f.Duplicates)/float64(f.Batches)) / 100
	rows, err := s.QueryContext(ctx, `SELECT caller, result, count(*) FROM trigger_calls WHERE result <> 'not ready' GROUP BY caller, result`)
	if err != nil {
		return f, err
	}
	defer rows.Close()
	for rows.Next() {
		var trigger, result string
		var n int
		if err := rows.Scan(&trigger, &result, &n); err != nil {
			return f, err
		}
		if result == "won" {
			f.Wins[trigger] = n
		} else {
			f.Losses[trigger] = n
		}
	}
	return f, rows.Err()
}

// wrong says what is wrong with the guarded run.
func (r report) wrong() []string {
	var wrong []string
	for _, f := range r.Runs {
		if f.Guard != withEndstate {
			continue
		}
		if f.WorstBatch > 1 {
			wrong = append(wrong, fmt.Sprintf("duplicates: %d events for one batch", f.WorstBatch))
		}
		if f.missing > 0 {
			wrong = append(wrong, fmt.Sprintf("%d batches without their event", f.missing))
		}
		if f.Premature > 0 {
			wrong = append(wrong, fmt.Sprintf("%d batches completed too early", f.Premature))
		}
	}
	return wrong
}

// print writes the runs side by side.
func (r report) print(out io.Writer) error {
	var text strings.Builder
	row := func(name string, value func(figures) string) {
		fmt.Fprintf(&text, "%-29s", name)
		for _, f := range r.Runs {
			fmt.Fprintf(&text, "%10s", value(f))
		}
		text.WriteByte('\n')
	}
	count := func(n func(figures) int) func(figures) string {
		return func(f figures) string { return fmt.Sprint(n(f)) }
	}
	fmt.Fprintf(&text, "The incident on %s, without and with endstate:\n\n", r.Database)
	row("guard", func(f figures) string { return f.Guard })
	row("lock", func(f figures) string { return f.Lock })
	row("batches", count(func(f figures) int { return f.Batches }))
	row("calls of the triggers", count(func(f figures) int { return f.TriggerCalls }))
	row("turned away, not ready", count(func(f figures) int { return f.notReady }))
	row("finalizations", count(func(f figures) int { return f.Finalizations }))
	row("completion events", count(func(f figures) int { return f.Events }))
	row("duplicates", count(func(f figures) int { return f.Duplicates }))
	row("duplicates, percent", func(f figures) string { return fmt.Sprintf("%.2f", f.Percentage) })
	row("events of the worst batch", count(func(f figures) int { return f.WorstBatch }))
	row("scorings", count(func(f figures) int { return f.Scorings }))
	row("batches completed too early", count(func(f figures) int { return f.Premature }))
	for _, t := range triggers() {
		row("won/lost by "+t, func(f figures) string { return fmt.Sprintf("%d/%d", f.Wins[t], f.Losses[t]) })
	}
	_, err := io.WriteString(out, text.String())
	return err
}
