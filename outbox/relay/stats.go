package relay

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/endstate-go/endstate/outbox"
)

// Stats are the figures of a subscription.
type Stats struct {
	// Pending counts the events that may go out at once; Retrying those that failed and wait for their next attempt, and those
	// behind them; Dead the dead letters.
	Pending, Retrying, Dead int64
	// AtLeast says that one of the three counts was broken off at StatsLimit, so that there are that many or more.
	AtLeast bool
	// OldestAge is the age of the oldest event that is neither published nor dead, zero if there is none.
	OldestAge time.Duration
	// Rate is how many events a second the relays published lately, together.
	Rate float64
	// Relays are the running ones.
	Relays []Info
	// Unowned counts the partitions that no running relay owns. It is 0 while a relay runs, but for the seconds in which partitions
	// change hands.
	Unowned int
}

// Info is what a running relay tells of itself.
type Info struct {
	ID         string // of its lease
	Name       string
	StartedAt  time.Time
	Partitions int
	Published  int64 // since StartedAt
	Rate       float64
}

// StatsLimit is where Stats stops to count, lest it take longer the worse the backlog is.
const StatsLimit = 100_000

// Stats returns the figures of the subscription. It goes by indexes, as far as StatsLimit, so that it stays cheap with millions of
// events, pending or published.
func (a *Admin) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	if err := a.counts(ctx, &s); err != nil {
		return Stats{}, fmt.Errorf("relay: stats: %w", err)
	}
	if err := a.running(ctx, &s); err != nil {
		return Stats{}, fmt.Errorf("relay: stats: %w", err)
	}
	return s, nil
}

func (a *Admin) counts(ctx context.Context, s *Stats) error {
	count := func(from string) string {
		return fmt.Sprintf("(SELECT count(*) FROM (SELECT 1 FROM %s LIMIT %d) n)", from, StatsLimit)
	}
	partitions := strings.TrimPrefix(strings.Repeat(" UNION ALL SELECT %d", outbox.Partitions), " UNION ALL ")
	numbers := make([]any, outbox.Partitions)
	for i := range numbers {
		numbers[i] = i
	}
	// Before its relays have begun, a subscription has no cursors.
	cursors := fmt.Sprintf("(SELECT p.n AS partition, coalesce((SELECT position FROM %s WHERE subscription = CAST($1 AS text) AND partition = p.n), 0) AS position FROM (%s) AS p (n)) c",
		a.cursors, fmt.Sprintf(partitions, numbers...))
	if a.sqlite() {
		cursors = strings.Replace(strings.Replace(cursors, "SELECT 0", "SELECT 0 AS n", 1), "AS p (n)", "AS p", 1)
	}
	pending := fmt.Sprintf("%s JOIN %s e ON e.partition = c.partition AND e.seq > c.position", cursors, a.events)
	parked := fmt.Sprintf("%s p WHERE p.subscription = CAST($1 AS text) AND p.dead_at IS ", a.parked)
	oldest := fmt.Sprintf("(SELECT min((SELECT e.created_at FROM %s e WHERE e.partition = c.partition AND e.seq > c.position ORDER BY e.partition, e.seq LIMIT 1)) FROM %s)", a.events, cursors)
	waiting := fmt.Sprintf("(SELECT min(e.created_at) FROM (SELECT partition, seq FROM %sNULL LIMIT %d) p JOIN %s e ON e.partition = p.partition AND e.seq = p.seq)", parked, StatsLimit, a.events)
	var ready, held *float64
	err := a.QueryRow(ctx, fmt.Sprintf("SELECT %s, %s, %s, %s, %s", count(pending), count(parked+"NULL"), count(parked+"NOT NULL"), a.age(oldest), a.age(waiting)),
		a.cfg.Subscription).Scan(&s.Pending, &s.Retrying, &s.Dead, &ready, &held)
	if err != nil {
		return err
	}
	s.AtLeast = max(s.Pending, s.Retrying, s.Dead) >= StatsLimit
	for _, age := range []*float64{ready, held} {
		if age != nil {
			s.OldestAge = max(s.OldestAge, time.Duration(*age*float64(time.Second)))
		}
	}
	return nil
}

func (a *Admin) running(ctx context.Context, s *Stats) error {
	rows, err := a.Query(ctx, fmt.Sprintf(`SELECT CAST(r.id AS text), r.name, r.started_at, (SELECT count(*) FROM %s c WHERE c.owner = r.id), r.published, r.rate
FROM %s r WHERE r.subscription = CAST($1 AS text) AND r.expires_at >= %s ORDER BY r.started_at, r.id`, a.cursors, a.relays, a.clock()), a.cfg.Subscription)
	if err != nil {
		return err
	}
	defer rows.Close()
	s.Unowned = outbox.Partitions
	for rows.Next() {
		var r Info
		var started moment
		if err := rows.Scan(&r.ID, &r.Name, &started, &r.Partitions, &r.Published, &r.Rate); err != nil {
			return err
		}
		r.StartedAt = started.Time
		s.Relays = append(s.Relays, r)
		s.Rate += r.Rate
		s.Unowned -= r.Partitions
	}
	return rows.Err()
}
