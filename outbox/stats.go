package outbox

import (
	"context"
	"fmt"
	"time"
)

// Stats are the figures of an outbox.
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
	Relays []RelayInfo
	// Unowned counts the shards that no running relay owns. It is 0 while a relay runs, but for the seconds in which shards
	// change hands.
	Unowned int
}

// RelayInfo is what a running relay tells of itself.
type RelayInfo struct {
	Epoch     int64 // its fencing token
	Name      string
	StartedAt time.Time
	Shards    int
	Published int64 // since StartedAt
	Rate      float64
}

// StatsLimit is where Stats stops to count, lest it take longer the worse the backlog is.
const StatsLimit = 100_000

// Stats returns the figures of the outbox. It goes by indexes, as far as StatsLimit, so that it stays cheap with millions of
// events, pending or published.
func (a *Admin) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	if err := a.counts(ctx, &s); err != nil {
		return Stats{}, fmt.Errorf("outbox: stats: %w", err)
	}
	if err := a.running(ctx, &s); err != nil {
		return Stats{}, fmt.Errorf("outbox: stats: %w", err)
	}
	return s, nil
}

func (a *Admin) counts(ctx context.Context, s *Stats) error {
	table := a.outbox.table()
	count := func(condition string) string {
		return fmt.Sprintf("(SELECT count(*) FROM (SELECT 1 FROM %s WHERE %s LIMIT %d) e)", table, condition, StatsLimit)
	}
	oldest := fmt.Sprintf("(SELECT created_at FROM %s WHERE %s ORDER BY seq LIMIT 1)", table, isPending)
	if !a.db.sqlite() {
		oldest = fmt.Sprintf("(SELECT min(e.created_at) FROM %s s CROSS JOIN LATERAL (SELECT created_at FROM %s WHERE shard = s.shard AND %s ORDER BY seq LIMIT 1) e)",
			a.outbox.shards(), table, isPending)
	}
	waiting := fmt.Sprintf("(SELECT min(created_at) FROM (SELECT created_at FROM %s WHERE next_attempt_at IS NOT NULL LIMIT %d) e)", table, StatsLimit)
	var ready, held *float64
	err := a.db.QueryRow(ctx, fmt.Sprintf("SELECT %s, %s, %s, %s, %s", count(isPending), count("next_attempt_at IS NOT NULL"), count("dead_at IS NOT NULL"),
		a.db.age(oldest), a.db.age(waiting))).Scan(&s.Pending, &s.Retrying, &s.Dead, &ready, &held)
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
	rows, err := a.db.Query(ctx, fmt.Sprintf(`SELECT r.epoch, r.name, r.started_at, (SELECT count(*) FROM %s s WHERE s.epoch = r.epoch), r.published, r.rate
FROM %s r WHERE r.expires_at >= %s ORDER BY r.epoch`, a.outbox.shards(), a.outbox.relays(), a.db.clock()))
	if err != nil {
		return err
	}
	defer rows.Close()
	s.Unowned = Shards
	for rows.Next() {
		var r RelayInfo
		var started moment
		if err := rows.Scan(&r.Epoch, &r.Name, &started, &r.Shards, &r.Published, &r.Rate); err != nil {
			return err
		}
		r.StartedAt = started.Time
		s.Relays = append(s.Relays, r)
		s.Rate += r.Rate
		s.Unowned -= r.Shards
	}
	return rows.Err()
}
