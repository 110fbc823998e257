package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/outbox"
)

// Stats are the figures of a subscription.
type Stats struct {
	Subscription string   `json:"subscription"`
	Destination  string   `json:"destination,omitempty"` // where its relays publish, as they say
	Types        []string `json:"types,omitempty"`       // what it is for; empty: all
	// Pending counts the events that no relay has come to yet; Retrying those that failed and wait for their next attempt, or
	// wait behind one that did; Dead the dead letters.
	Pending  int64 `json:"pending"`
	Retrying int64 `json:"retrying"`
	Dead     int64 `json:"dead"`
	// AtLeast reports whether a count was broken off at StatsLimit, so that there are that many or more.
	AtLeast bool `json:"at_least"`
	// OldestAge is the age of the oldest event that is neither published nor dead, zero if there is none: the subscription's lag.
	OldestAge time.Duration `json:"-"`
	// Rate is how many events a second the subscription's relays published lately, together.
	Rate float64 `json:"rate"`
	// Relays are the running ones.
	Relays []RelayInfo `json:"relays,omitempty"`
	// Unowned counts the partitions that no running relay owns. It is 0 while a relay runs, but for the seconds in which
	// partitions change hands.
	Unowned int `json:"unowned_partitions"`
	// Blocked are the partitions whose events the destination doesn't take.
	Blocked []Blocked `json:"blocked,omitempty"`
}

// RelayInfo is what a running relay reports of itself.
type RelayInfo struct {
	ID         uuid.UUID `json:"id"` // of its lease
	Name       string    `json:"name"`
	StartedAt  time.Time `json:"started_at"`
	Partitions int       `json:"partitions"`
	Published  int64     `json:"published"` // since StartedAt
	Rate       float64   `json:"rate"`
}

// Blocked is a partition that waits for its destination. No attempts are counted meanwhile.
type Blocked struct {
	Partition int       `json:"partition"`
	Since     time.Time `json:"since"`
	EventID   uuid.UUID `json:"event_id,omitzero"` // the event that it was tried with
	Why       string    `json:"why"`
}

// StatsLimit is where Stats stops counting, lest it take longer the worse the backlog is.
const StatsLimit = 100_000

// Stats returns the figures of each subscription, in the order of their names. It goes by indexes, as far as StatsLimit, so that
// it stays cheap with millions of events, pending or published.
func (a *Admin) Stats(ctx context.Context) ([]Stats, error) {
	subscriptions, err := a.subscriptionList(ctx, a.store)
	if err != nil {
		return nil, fmt.Errorf("relay: stats: %w", err)
	}
	list := make([]Stats, 0, len(subscriptions))
	for _, sub := range subscriptions {
		s := Stats{Subscription: sub.Name, Destination: sub.Destination, Types: sub.types}
		for _, part := range []func(context.Context, types, *Stats) error{a.backlog, a.waiting, a.running, a.blocked} {
			if err := part(ctx, sub.types, &s); err != nil {
				return nil, fmt.Errorf("relay: stats of %s: %w", sub.Name, err)
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// backlog counts what lies behind the cursors.
func (a *Admin) backlog(ctx context.Context, match types, s *Stats) error {
	perPartition := StatsLimit / outbox.Partitions
	ahead := eachPartition(fmt.Sprintf(`SELECT type, created_at, partition FROM %s WHERE partition = %%[1]d
		AND seq > coalesce((SELECT position FROM %s WHERE subscription = CAST($1 AS text) AND partition = %%[1]d), 0) ORDER BY partition, seq LIMIT %d`,
		a.store.events, a.store.cursors, perPartition))
	matching := match.condition(a.store.dialect, "type")
	return a.store.rows(ctx, func(row pgx.Row) error {
		var looked, pending int64
		var age float64
		err := row.Scan(&looked, &pending, &age)
		s.Pending += pending
		s.AtLeast = s.AtLeast || looked == int64(perPartition)
		s.OldestAge = max(s.OldestAge, seconds(age))
		return err
	}, fmt.Sprintf(`SELECT count(*), count(*) FILTER (WHERE %[1]s), coalesce(%[2]s, 0) FROM (%[3]s) endstate_ahead GROUP BY partition`,
		matching, a.store.age("min(created_at) FILTER (WHERE "+matching+")"), ahead), s.Subscription)
}

// waiting counts what was set aside.
func (a *Admin) waiting(ctx context.Context, _ types, s *Stats) error {
	set := func(dead string) string {
		return fmt.Sprintf("(SELECT count(*) FROM (SELECT 1 FROM %s WHERE subscription = CAST($1 AS text) AND dead_at IS %s LIMIT %d) endstate_set)", a.store.parked, dead, StatsLimit)
	}
	var age *float64
	err := a.store.row(ctx, []any{&s.Retrying, &s.Dead, &age}, fmt.Sprintf(`SELECT %s, %s, %s`, set("NULL"), set("NOT NULL"), a.store.age(fmt.Sprintf(
		`(SELECT min(e.created_at) FROM (SELECT partition, seq FROM %s WHERE subscription = CAST($1 AS text) AND dead_at IS NULL LIMIT %d) endstate_set
	JOIN %s e ON e.partition = endstate_set.partition AND e.seq = endstate_set.seq)`, a.store.parked, looked, a.store.events))), s.Subscription)
	s.AtLeast = s.AtLeast || max(s.Retrying, s.Dead) == StatsLimit
	if age != nil {
		s.OldestAge = max(s.OldestAge, seconds(*age))
	}
	return err
}

func (a *Admin) running(ctx context.Context, _ types, s *Stats) error {
	s.Unowned = outbox.Partitions
	return each(ctx, a.store, func(row pgx.Row) (err error) {
		var r RelayInfo
		var id string
		var started moment
		if err := row.Scan(&id, &r.Name, &started, &r.Partitions, &r.Published, &r.Rate); err != nil {
			return err
		}
		r.ID, err = uuid.Parse(id)
		r.StartedAt = started.Time
		s.Relays = append(s.Relays, r)
		s.Rate += r.Rate
		s.Unowned -= r.Partitions
		return err
	}, fmt.Sprintf(`SELECT CAST(r.id AS text), %s, r.started_at, (SELECT count(*) FROM %s c WHERE c.subscription = r.subscription AND c.owner = r.id), r.published, r.rate
FROM %s r WHERE r.subscription = CAST($1 AS text) AND r.expires_at >= %s ORDER BY r.started_at, r.id`, cut("r.name"), a.store.cursors, a.store.relays, a.store.clock()), s.Subscription)
}

func (a *Admin) blocked(ctx context.Context, _ types, s *Stats) error {
	return each(ctx, a.store, func(row pgx.Row) error {
		var b Blocked
		var since moment
		var id string
		err := row.Scan(&b.Partition, &since, &id, &b.Why)
		b.Since = since.Time
		if err == nil && id != "" {
			b.EventID, err = uuid.Parse(id)
		}
		s.Blocked = append(s.Blocked, b)
		return err
	}, fmt.Sprintf(`SELECT partition, blocked_since, coalesce(CAST(blocked_by AS text), ''), %s
FROM %s WHERE subscription = CAST($1 AS text) AND blocked_since IS NOT NULL ORDER BY partition`, cut("coalesce(blocked_why, '')"), a.store.cursors), s.Subscription)
}
