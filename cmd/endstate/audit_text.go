package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/endstate-go/endstate/outbox/audit"
)

// auditText is an audit's report for a terminal.
func auditText(cfg audit.Config, r *audit.Report) func(w io.Writer) {
	return func(w io.Writer) {
		t := newTable()
		for _, f := range auditFigures(r) {
			t.row(f.Name, f.Value, f.Note)
		}
		t.write(w)
		if len(r.Worst) > 0 {
			fmt.Fprintf(w, "\nThe worst aggregates:\n\n")
			t := newTable("aggregate", "type", "events", "published", "first", "last", "median gap", "pattern")
			for _, worst := range r.Worst {
				t.row(worst.ID, worst.Type, worst.Events, worst.Published, worst.First, worst.Last, gapCell(worst.MedianGap), patternNames[worst.Pattern])
			}
			t.write(w)
			fmt.Fprintln(w)
			for _, worst := range r.Worst {
				if worst.First == nil {
					continue
				}
				fmt.Fprintf(w, "%s: %s\n%s  %s\n", printable(worst.ID), patternMeaning(worst.Pattern, r.Window), sparkline(worst.Timeline), span(worst))
			}
		}
		fmt.Fprintln(w)
		if r.Clean() {
			fmt.Fprintf(w, "No duplicates in %s.\n", printable(cfg.Table))
			return
		}
		fmt.Fprintf(w, "%d duplicates in %s. endstate adopt plan says how to remove them and to keep new ones out.\n", r.Duplicates, printable(cfg.Table))
	}
}

// figure is one line of the summary.
type figure struct {
	Name  string
	Value any
	Note  string
}

func auditFigures(r *audit.Report) []figure {
	figures := []figure{
		{"unique aggregates", r.Aggregates, "pairs of an id and an event type"},
		{"events", r.Events, ""},
		{"duplicates", r.Duplicates, ""},
		{"duplicates, percent", r.Percentage, "of the unique aggregates"},
		{"events per aggregate", r.Average, ""},
		{"duplicated aggregates", r.Duplicated, ""},
		{"published events", r.PublishedEvents, ""},
		{"published duplicates", r.Published, "consumers have seen them"},
		{"pairs within the window", r.PairsWithinWindow, "neighbours at most " + shortDuration(r.Window) + " apart"},
	}
	if r.NullTimes > 0 {
		figures = append(figures, figure{"events without a time", r.NullTimes, "counted above, but in no gap"})
	}
	if r.NullKeys > 0 {
		figures = append(figures, figure{"rows without an id or type", r.NullKeys, "not counted above"})
	}
	return figures
}

var patternNames = map[audit.Pattern]string{
	audit.TightLoop: "tight loop", audit.Overlap: "overlapping triggers", audit.Spread: "spread", audit.Unknown: "unknown",
}

func patternMeaning(p audit.Pattern, window time.Duration) string {
	switch p {
	case audit.TightLoop:
		return "tight loop: many within seconds at a steady gap, as of code that finalizes again and again"
	case audit.Overlap:
		return "overlapping triggers: within " + shortDuration(window) + " of each other"
	case audit.Spread:
		return "spread: long after each other, as of a sweep or a restart that comes back to what is done"
	}
	return "unknown: fewer than two of its events have a time"
}

// shortDuration leaves out the zeros of Duration.String.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func gapCell(millis *float64) any {
	if millis == nil {
		return nil
	}
	gap := time.Duration(*millis * float64(time.Millisecond))
	if gap > time.Minute {
		return gap.Round(time.Second)
	}
	return gap.Round(100 * time.Microsecond)
}

// span tells how long an aggregate's events took.
func span(a audit.Aggregate) string {
	length := a.Last.Sub(*a.First)
	if length >= 48*time.Hour {
		return fmt.Sprintf("%.1f days", length.Hours()/24)
	}
	return length.Round(time.Millisecond).String()
}

// sparkline is a timeline as a line of text, whose highest bucket is a full block.
func sparkline(timeline [audit.Buckets]audit.Bucket) string {
	levels := []rune("▁▂▃▄▅▆▇█")
	var highest int64 = 1
	for _, b := range timeline {
		highest = max(highest, b.Events)
	}
	var line strings.Builder
	for _, b := range timeline {
		if b.Events == 0 {
			line.WriteRune('·')
			continue
		}
		line.WriteRune(levels[(b.Events*int64(len(levels))-1)/highest])
	}
	return line.String()
}
