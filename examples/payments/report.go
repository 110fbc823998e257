package main

import (
	"context"
	"fmt"
	"io"
	"strings"
)

// report is what the program prints, read back from the database.
type report struct {
	Database  string         `json:"database"`
	Payments  []payment      `json:"payments"`
	Calls     int            `json:"calls"`
	Pending   int            `json:"pending"`
	Questions int64          `json:"questions_to_the_provider"`
	Wins      map[string]int `json:"wins"`
	Losses    map[string]int `json:"losses"`
}

// payment is one payment, with the events that its settlement left.
type payment struct {
	ID       int64  `json:"id"`
	Status   string `json:"status"`
	By       string `json:"settled_by"`
	Settled  int    `json:"settled_events"`
	Bookings int    `json:"bookings"`
	Refunds  int    `json:"refunds"`
}

func (s *store) report(ctx context.Context, c *calls) (report, error) {
	r := report{Database: "sqlite", Calls: c.made, Pending: c.pending, Questions: c.questions, Wins: c.wins, Losses: c.losses}
	if s.postgres {
		r.Database = "postgres"
	}
	events := func(eventType string) string {
		return `(SELECT count(*) FROM endstate_outbox WHERE aggregate_id = CAST(p.id AS text) AND type = '` + eventType + `')`
	}
	rows, err := s.QueryContext(ctx, `SELECT p.id, p.status, coalesce(l."trigger", ''), `+events("payment.settled")+`, `+events("ledger.booking")+`, `+events("payment.refund")+`
		FROM payments p LEFT JOIN endstate_ledger l ON l.aggregate = 'payment' AND l.key = 'i:' || p.id ORDER BY p.id`)
	if err != nil {
		return r, err
	}
	defer rows.Close()
	for rows.Next() {
		var p payment
		if err := rows.Scan(&p.ID, &p.Status, &p.By, &p.Settled, &p.Bookings, &p.Refunds); err != nil {
			return r, err
		}
		r.Payments = append(r.Payments, p)
	}
	return r, rows.Err()
}

// wrong says what is wrong with the payments.
func (r report) wrong() []string {
	var wrong []string
	for _, p := range r.Payments {
		bookings := 0
		if p.Status == string(captured) {
			bookings = 1
		}
		switch {
		case p.Settled != 1 || p.By == "":
			wrong = append(wrong, fmt.Sprintf("payment %d was settled %d times", p.ID, p.Settled))
		case p.Bookings != bookings:
			wrong = append(wrong, fmt.Sprintf("payment %d, which is %s, was booked %d times", p.ID, p.Status, p.Bookings))
		case p.Refunds > 1 || p.Refunds == 1 && p.Status != string(expired):
			wrong = append(wrong, fmt.Sprintf("payment %d, which is %s, was refunded %d times", p.ID, p.Status, p.Refunds))
		}
	}
	return wrong
}

// print writes a line for each payment of the first few, and the sums.
func (r report) print(out io.Writer) error {
	const shown = 20
	var text strings.Builder
	var settled, bookings, refunds int
	fmt.Fprintf(&text, "%d payments on %s, each with two webhooks, two polls and two timeouts at once:\n\n", len(r.Payments), r.Database)
	fmt.Fprintf(&text, "%8s  %-9s  %-10s  %8s  %8s  %8s\n", "payment", "status", "settled by", "events", "bookings", "refunds")
	for i, p := range r.Payments {
		if i < shown {
			fmt.Fprintf(&text, "%8d  %-9s  %-10s  %8d  %8d  %8d\n", p.ID, p.Status, p.By, p.Settled, p.Bookings, p.Refunds)
		} else if i == shown {
			fmt.Fprintf(&text, "%8s\n", "…")
		}
		settled, bookings, refunds = settled+p.Settled, bookings+p.Bookings, refunds+p.Refunds
	}
	fmt.Fprintf(&text, "%8s  %-9s  %-10s  %8d  %8d  %8d\n\n", "all", "", "", settled, bookings, refunds)
	for _, t := range triggers() {
		fmt.Fprintf(&text, "%-8s won %d, lost %d\n", t, r.Wins[t], r.Losses[t])
	}
	fmt.Fprintf(&text, "%d of %d calls were too early. The provider was asked %d times.\n", r.Pending, r.Calls, r.Questions)
	_, err := io.WriteString(out, text.String())
	return err
}
