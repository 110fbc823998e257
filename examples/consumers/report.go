package main

import (
	"context"
	"fmt"
	"io"
	"strings"
)

// report is what the program prints. Each delivery that was acknowledged either had an effect or was dropped.
type report struct {
	Delivered int               `json:"delivered"`
	Consumers []consumerFigures `json:"consumers"`
	database  string
}

// consumerFigures are one consumer's, its effects read back from the database.
type consumerFigures struct {
	Name    string `json:"name"`
	Applied int    `json:"applied"`
	Dropped int    `json:"dropped"`
	Credits int    `json:"credits"`

	way       string
	ids       int // different event ids
	cut       int // deliveries that were cut off by a crash
	delivered int
	affected  int // batches
}

func (w *world) report(ctx context.Context, b *broker) (report, error) {
	r := report{database: "SQLite"}
	if !sqlite(w.dsn) {
		r.database = "PostgreSQL"
	}
	for _, c := range []struct{ name, way, effects, credits string }{
		{"lifecycle", "inbox.Status", "lifecycle_moves", "0"},
		{results, "NewConsumerSQL", "results", "0"},
		{"entitlements", "inbox.Claims", "credits", "(SELECT charged FROM accounts)"},
	} {
		counts := b.counts[c.name]
		f := consumerFigures{Name: c.name, way: c.way, ids: len(counts.ids), cut: counts.cut, delivered: counts.delivered}
		query := fmt.Sprintf(`SELECT count(*), count(DISTINCT batch), %s FROM %s`, c.credits, c.effects)
		if err := w.db.QueryRowContext(ctx, query).Scan(&f.Applied, &f.affected, &f.Credits); err != nil {
			return r, err
		}
		if c.name == results {
			if err := w.db.QueryRowContext(ctx, `SELECT count(*), count(DISTINCT event) FROM results_events`).Scan(&f.delivered, &f.ids); err != nil {
				return r, err
			}
		}
		f.Dropped = f.delivered - f.Applied
		r.Delivered += f.delivered
		r.Consumers = append(r.Consumers, f)
	}
	return r, nil
}

// wrong says what is wrong.
func (r report) wrong() []string {
	var wrong []string
	for _, f := range r.Consumers {
		if doubled := f.Applied - f.affected; doubled > 0 {
			wrong = append(wrong, fmt.Sprintf("%s applied %d effects twice", f.Name, doubled))
		}
		if lost := batches - f.affected; lost > 0 {
			wrong = append(wrong, fmt.Sprintf("%s missed %d batches", f.Name, lost))
		}
		if doubled := f.delivered - f.ids; f.Name == results && doubled > 0 {
			wrong = append(wrong, fmt.Sprintf("%s handled %d events twice", f.Name, doubled))
		}
		if f.Name == "entitlements" && f.Credits != batches {
			wrong = append(wrong, fmt.Sprintf("%d credits were charged for %d batches", f.Credits, batches))
		}
	}
	return wrong
}

func (r report) print(out io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%d batches on %s, and three consumers whose processes are killed, while a broker repeats and reorders deliveries to two of them:\n\n", batches, r.database)
	fmt.Fprintf(&text, "%-14s%-16s%10s%10s%10s%10s%10s%10s\n", "consumer", "way", "event ids", "delivered", "cut off", "dropped", "applied", "credits")
	for _, f := range r.Consumers {
		fmt.Fprintf(&text, "%-14s%-16s%10d%10d%10d%10d%10d%10d\n", f.Name, f.way, f.ids, f.delivered, f.cut, f.Dropped, f.Applied, f.Credits)
	}
	for _, f := range r.Consumers {
		if f.Name == "entitlements" {
			fmt.Fprintf(&text, "\nSome batches were announced twice, with different event ids: by ids alone %d credits would have been charged, by the\nbatch it was %d.\n", f.ids, f.Credits)
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}
