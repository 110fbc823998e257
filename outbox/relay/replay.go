package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
)

// Replay says which events of a subscription are to be published again, with the ids that they have. An event before From may
// come along: times become positions by the cursor's samples, which are some seconds apart.
type Replay struct {
	// From is the time from whose events on. Required.
	From time.Time
	// To is the time before which the events were written. They are set aside to be published again, beside what is new. Zero:
	// the cursors go back, and all that came after From is published again, in order.
	To time.Time
	// Dead includes dead letters. Default: they stay dead.
	Dead bool
	// DryRun counts and changes nothing.
	DryRun bool
}

// Replayed is what a Replay does.
type Replayed struct {
	Events  int64 // to be published again
	AtLeast bool  // the count was broken off at StatsLimit, so that there are that many or more
}

// Replay has a subscription publish events again, and records who did it and why. It may run beside the subscription's relays.
// Consumers with an inbox that still has the events' ids drop what they know.
func (a *Admin) Replay(ctx context.Context, by By, r Replay) (Replayed, error) {
	err := by.validate("replay")
	if err == nil && r.From.IsZero() {
		err = fmt.Errorf("%w: Replay.From is zero; say from when on", outbox.ErrConfig)
	}
	for field, at := range map[string]time.Time{"From": r.From, "To": r.To} {
		if err == nil && !kept(at) {
			err = fmt.Errorf("%w: Replay.%s is in the year %d; events are of the years 1 to 9999", outbox.ErrConfig, field, at.UTC().Year())
		}
	}
	if err == nil && !r.To.IsZero() && !r.To.After(r.From) {
		err = fmt.Errorf("%w: Replay.To is not after Replay.From", outbox.ErrConfig)
	}
	if err != nil {
		return Replayed{}, err
	}
	match, err := a.subscribed(ctx, a.store, by.Subscription)
	if err != nil {
		return Replayed{}, fmt.Errorf("relay: replay: %w", err)
	}
	var done Replayed
	switch {
	case r.DryRun:
		done, err = a.replayed(ctx, match, by.Subscription, r)
	case r.To.IsZero():
		if done, err = a.replayed(ctx, match, by.Subscription, r); err == nil {
			err = a.goBack(ctx, by, r)
		}
	default:
		done.Events, err = a.readAgain(ctx, match, by, r)
	}
	if err != nil {
		return done, fmt.Errorf("relay: replay: %w", err)
	}
	return done, nil
}

// before is where the cursor stood, in partition %[1]d, when nothing had been written that came after a time: an expression.
func (a *Admin) before(at string) string {
	return fmt.Sprintf("coalesce((SELECT s.position FROM %s s WHERE s.subscription = CAST($1 AS text) AND s.partition = %%[1]d AND s.at <= %s ORDER BY s.at DESC LIMIT 1), 0)",
		a.store.samples, a.store.time(at))
}

// replayed counts what a replay has published again.
func (a *Admin) replayed(ctx context.Context, match types, subscription string, r Replay) (done Replayed, err error) {
	perPartition := StatsLimit / outbox.Partitions
	until, matching := "true", match.condition(a.store.dialect, "type")
	args := []any{subscription, a.store.timeArg(r.From)}
	if !r.To.IsZero() {
		args = append(args, a.store.timeArg(r.To))
		until = "created_at < " + a.store.time("$3")
	}
	again := eachPartition(fmt.Sprintf(`SELECT type, created_at, partition FROM %s WHERE partition = %%[1]d AND seq > %s
		AND seq <= coalesce((SELECT position FROM %s WHERE subscription = CAST($1 AS text) AND partition = %%[1]d), 0) ORDER BY partition, seq LIMIT %d`,
		a.store.events, a.before("$2"), a.store.cursors, perPartition))
	var most int64
	err = a.store.row(ctx, []any{&done.Events, &most}, fmt.Sprintf("SELECT coalesce(sum(matching), 0), coalesce(max(n), 0) FROM (SELECT count(*) FILTER (WHERE %s AND %s) AS matching, count(*) AS n FROM (%s) endstate_again GROUP BY partition) endstate_counts",
		matching, until, again), args...)
	done.AtLeast = most == int64(perPartition)
	return done, err
}

// goBack sets the cursors back. Their snapshot stays: what it shows up to the lower position is published or set aside as
// before. A relay that is about to move finds another token, and reads again.
func (a *Admin) goBack(ctx context.Context, by By, r Replay) error {
	dead := " AND dead_at IS NULL"
	if r.Dead {
		dead = ""
	}
	return a.store.inTx(ctx, func(ctx context.Context, tx endstate.Tx) error {
		if err := a.record(ctx, tx, "replay", by, "from "+r.From.UTC().Format(time.RFC3339Nano)); err != nil {
			return err
		}
		for p := range outbox.Partitions {
			lower := fmt.Sprintf(a.before("$2"), p)
			set := "position = " + a.store.least("position", lower) + a.store.either(", prior_position = "+a.store.least("prior_position", lower), "")
			if _, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET %s, token = %s WHERE subscription = CAST($1 AS text) AND partition = %d", a.store.cursors, set, a.store.random(), p),
				by.Subscription, a.store.timeArg(r.From)); err != nil {
				return err
			}
			// They are read again.
			if _, err := tx.Exec(ctx, fmt.Sprintf("DELETE FROM %[1]s WHERE subscription = CAST($1 AS text) AND partition = %[2]d AND seq > (SELECT position FROM %[3]s WHERE subscription = CAST($1 AS text) AND partition = %[2]d)%[4]s",
				a.store.parked, p, a.store.cursors, dead), by.Subscription); err != nil {
				return err
			}
		}
		return nil
	})
}

// readAgain sets events aside that were published, each partition's in bounded batches.
func (a *Admin) readAgain(ctx context.Context, match types, by By, r Replay) (n int64, err error) {
	detail := fmt.Sprintf("from %s to %s", r.From.UTC().Format(time.RFC3339Nano), r.To.UTC().Format(time.RFC3339Nano))
	if err := a.store.inTx(ctx, func(ctx context.Context, tx endstate.Tx) error { return a.record(ctx, tx, "replay", by, detail) }); err != nil {
		return 0, err
	}
	matching := match.condition(a.store.dialect, "e.type")
	revive := "DO NOTHING"
	if r.Dead {
		revive = fmt.Sprintf("DO UPDATE SET dead_at = NULL, attempts = 0, crashes = 0, next_attempt_at = %s WHERE %s.dead_at IS NOT NULL", a.store.clock(), a.store.parked)
	}
	for p := range outbox.Partitions {
		var after int64
		if err := a.store.QueryRow(ctx, fmt.Sprintf("SELECT "+a.before("$2"), p), by.Subscription, a.store.timeArg(r.From)).Scan(&after); err != nil {
			return n, err
		}
		for {
			// The next batch's end first: what is set aside may be less than what was looked at.
			var last, young int64
			if err := a.store.row(ctx, []any{&last, &young}, fmt.Sprintf(`SELECT coalesce(max(seq), 0), count(CASE WHEN created_at >= %[1]s THEN 1 END) FROM (SELECT seq, created_at FROM %[2]s WHERE partition = %[3]d AND seq > CAST($2 AS bigint)
	AND seq <= (SELECT position FROM %[4]s WHERE subscription = CAST($1 AS text) AND partition = %[3]d) ORDER BY partition, seq LIMIT %[5]d) endstate_next`,
				a.store.time("$3"), a.store.events, p, a.store.cursors, chunk), by.Subscription, after, a.store.timeArg(r.To)); err != nil {
				return n, err
			}
			if last == 0 {
				break
			}
			tag, err := a.store.Exec(ctx, fmt.Sprintf(`INSERT INTO %s (subscription, partition, seq, event_id, aggregate_type, aggregate_id, next_attempt_at)
SELECT CAST($1 AS text), e.partition, e.seq, e.id, e.aggregate_type, e.aggregate_id, %s FROM %s e
WHERE e.partition = %d AND e.seq > CAST($2 AS bigint) AND e.seq <= CAST($3 AS bigint) AND e.created_at < %s AND %s
ORDER BY e.seq ON CONFLICT (subscription, partition, seq) %s`, a.store.parked, a.store.clock(), a.store.events, p, a.store.time("$4"), matching, revive),
				by.Subscription, after, last, a.store.timeArg(r.To))
			if err != nil {
				return n, err
			}
			n += tag.RowsAffected()
			if young == chunk {
				break // all of them came later, and so will the next ones
			}
			after = last
		}
	}
	return n, nil
}

// Drop removes a subscription that is gone for good, with its cursors and its dead letters, so that retention doesn't wait for
// it any more; who did it and why is recorded. While a relay publishes it, that is refused with ErrLive.
func (a *Admin) Drop(ctx context.Context, by By) error {
	if err := by.validate("drop"); err != nil {
		return err
	}
	err := a.store.inTx(ctx, func(ctx context.Context, tx endstate.Tx) error {
		if err := a.record(ctx, tx, "drop", by, ""); err != nil {
			return err
		}
		// A relay that joins meanwhile waits.
		if _, err := tx.Exec(ctx, fmt.Sprintf("SELECT 1 FROM %s WHERE name = CAST($1 AS text)%s", a.store.subscriptions, a.store.forUpdate("")), by.Subscription); err != nil {
			return err
		}
		if _, err := a.subscribed(ctx, tx, by.Subscription); err != nil {
			return err
		}
		var live int
		if err := tx.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s WHERE subscription = CAST($1 AS text) AND expires_at >= %s", a.store.relays, a.store.clock()), by.Subscription).Scan(&live); err != nil {
			return err
		}
		if live > 0 {
			return fmt.Errorf("%w: %q; stop its relays first", ErrLive, by.Subscription)
		}
		for _, table := range []string{a.store.parked, a.store.samples, a.store.relays, a.store.cursors} {
			if _, err := tx.Exec(ctx, fmt.Sprintf("DELETE FROM %s WHERE subscription = CAST($1 AS text)", table), by.Subscription); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, fmt.Sprintf("DELETE FROM %s WHERE name = CAST($1 AS text)", a.store.subscriptions), by.Subscription)
		return err
	})
	if err != nil {
		return fmt.Errorf("relay: drop: %w", err)
	}
	return nil
}
