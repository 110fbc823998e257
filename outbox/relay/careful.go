package relay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// errDied is the last error of an event that relays died with.
var errDied = errors.New("the relay died while it published this event")

// beCareful goes on with partitions whose last owner's lease ran out: it parks what that may have had in flight, and then
// publishes it event by event, each counted as a crash before it is tried, and uncounted after. It returns how many it tried.
func (t *term) beCareful(ctx context.Context) (int, error) {
	cursors, _, err := t.store.read(ctx, t.lease.id, t.every, 1, nil)
	if err != nil {
		return 0, t.timedOut(ctx, err)
	}
	var window []int
	suspects := false
	limit := t.cfg.BatchSize
	for _, c := range cursors {
		switch {
		case c.Placements > 0:
		case c.Careful == 1:
			window, limit = append(window, c.Partition), max(limit, c.Batch)
		case c.Careful == 2:
			suspects = true
		}
	}
	if len(window) > 0 {
		return 1, t.suspect(ctx, window, limit)
	}
	if !suspects || time.Now().Before(t.gauge.until) {
		return 0, nil
	}
	found, err := t.store.readDue(ctx, t.lease.id, 1, 1, true)
	if err != nil {
		return 0, t.timedOut(ctx, fmt.Errorf("suspects: %w", err))
	}
	if len(found) == 0 {
		return 1, t.store.trust(ctx, t.lease.id, t.cfg.BatchSize)
	}
	return 1, t.tryAlone(ctx, &found[0])
}

// suspect parks all that a dead owner may have had in flight: what this reading brings, and the parked events that were due.
func (t *term) suspect(ctx context.Context, partitions []int, limit int) error {
	cursors, rows, err := t.store.read(ctx, t.lease.id, partitions, limit, nil)
	if err != nil {
		return t.timedOut(ctx, err)
	}
	b := t.newBatch(cursors, rows, limit, math.MaxInt) // payloads aren't wanted
	var moves []move
	var parks []park
	for i := range b.cursors {
		b.hold(b.cursors[i].Partition)
		m, mine, _ := b.moveOf(&b.cursors[i], false, false)
		if m.Mode == moveAll {
			m.Careful = 2
		}
		for j := range mine {
			mine[j].Suspect = !mine[j].Dead
		}
		moves, parks = append(moves, m), append(parks, mine...)
	}
	if err := t.store.suspectDue(ctx, t.lease.id, partitions); err != nil {
		return err
	}
	if len(moves) == 0 {
		return nil
	}
	_, err = t.store.move(ctx, moves, cursors[0].Now, cursors[0].Incarnation, parks)
	t.waiting = true
	return err
}

// tryAlone publishes a suspect by itself.
func (t *term) tryAlone(ctx context.Context, r *row) error {
	if r.crashes >= t.cfg.MaxCrashes {
		r.state, r.err, r.bad = dead, errDied, errDied
		t.log.ErrorContext(ctx, "outbox relay: event is dead", "event", r.ID, "type", r.Type, "aggregate", r.AggregateType+"/"+r.AggregateID, "crashes", r.crashes)
		if f := t.cfg.Trace.Dead; f != nil {
			f(ctx, r.Event, r.attempts, r.err)
		}
		return t.settle([]*row{r}, &tries{blocked: map[name]bool{}})
	}
	// If r kills this relay, that counts as a crash.
	if ok, err := t.store.setCrashes(ctx, t.lease.id, r, r.crashes, r.crashes+1, ""); err != nil || !ok {
		return err
	}
	p, err := t.retry(ctx, []row{*r})
	if err != nil || p.taken > 0 {
		return err
	}
	// It is no suspect any more: what it failed with isn't the relay's death.
	return t.persist("acquit a suspect", func(ctx context.Context) error {
		wait := t.store.later(fmt.Sprint(t.cfg.MinBackoff.Seconds()))
		_, err := t.store.setCrashes(ctx, t.lease.id, r, r.crashes+1, r.crashes, ", suspect = (1 = 0), next_attempt_at = "+wait)
		return err
	})
}

// suspectDue makes suspects of the parked events that a dead owner may have been publishing: those that are due, and those
// behind them.
func (s *store) suspectDue(ctx context.Context, owner string, partitions []int) error {
	return s.set(ctx, owner, "suspect = (1 = 1)", fmt.Sprintf(`p.partition IN (%s) AND p.dead_at IS NULL AND (p.next_attempt_at <= %s OR p.next_attempt_at IS NULL
	AND EXISTS (SELECT 1 FROM %s w WHERE w.subscription = p.subscription AND w.partition = p.partition AND w.aggregate_type = p.aggregate_type AND w.aggregate_id = p.aggregate_id
		AND w.dead_at IS NULL AND w.next_attempt_at <= %[2]s))`, strings.Trim(toJSON(partitions), "[]"), s.clock(), s.parked))
}

// setCrashes changes how many relays a parked event has killed; ok is false if somebody else changed the row.
func (s *store) setCrashes(ctx context.Context, owner string, r *row, from, to int, more string) (ok bool, err error) {
	tag, err := s.Exec(ctx, fmt.Sprintf("UPDATE %s AS p SET crashes = CAST($6 AS integer)%s WHERE %s AND p.partition = CAST($3 AS integer) AND p.seq = CAST($4 AS bigint) AND p.crashes = CAST($5 AS integer) AND p.dead_at IS NULL",
		s.parked, more, s.mine("p.")), s.cfg.Subscription, owner, r.partition, r.seq, from, to)
	return err == nil && tag.RowsAffected() == 1, err
}

// trust ends the care: the suspects that are left wait behind others, and for those there is a reason.
func (s *store) trust(ctx context.Context, owner string, batch int) error {
	if err := s.set(ctx, owner, "suspect = (1 = 0)", "p.suspect"); err != nil {
		return err
	}
	return s.run(ctx, fmt.Sprintf("UPDATE %s SET careful = 0, batch = CAST($3 AS integer) WHERE %s AND careful = 2", s.cursors, s.owned()), s.cfg.Subscription, owner, batch)
}
