package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
)

// passParked tries parked events that are due, and returns how many there were.
func (t *term) passParked(ctx context.Context) (int, error) {
	perTurn := 1
	if !t.cfg.Unordered {
		perTurn = 1 << min(t.recovering, 12)
	}
	heads := max(1, t.gauge.size(t.cfg.BatchSize)/perTurn)
	found, err := t.store.readDue(ctx, t.lease.id, heads, perTurn, false)
	if err != nil {
		return 0, t.timedOut(ctx, fmt.Errorf("parked ones: %w", err))
	}
	if len(found) == 0 {
		wait, any, err := t.store.nextDue(ctx, t.lease.id)
		if err != nil {
			return 0, fmt.Errorf("look for the next parked event: %w", err)
		}
		t.waiting, t.nextDue = any, time.Now().Add(max(wait, 20*time.Millisecond))
		return 0, nil
	}
	p, err := t.retry(ctx, found)
	if err != nil {
		return 0, err
	}
	if p.taken > 0 {
		t.recovering += 3
	} else {
		t.recovering = 0
	}
	t.report(ctx, p)
	if p.taken == 0 && len(p.open) > 0 && t.gauge.until.After(t.nextDue) {
		t.nextDue = t.gauge.until // nothing is written down, so they are due still
	}
	return p.taken, nil
}

// retry publishes parked events and writes down what became of them. Where nothing is written, nothing is known.
func (t *term) retry(ctx context.Context, found []row) (p *tries, err error) {
	b := t.newBatch(nil, found, len(found)+1, batchBytes>>t.shrunk)
	if len(b.large) > 0 {
		if err := t.store.payloads(ctx, b.large); err != nil {
			return &tries{}, t.timedOut(ctx, err)
		}
	}
	failures := t.gauge.failures
	trusts := t.gauge.trusts(time.Now())
	if t.begin == nil {
		p = t.publishRows(ctx, b.rows)
	} else if p, err = t.handleParked(ctx, b.rows); err != nil {
		return p, err
	}
	if trusts {
		for _, r := range p.open {
			if _, later := retryAfter(r.err); !later && !errors.Is(r.err, errPutOff) {
				t.blame(p, r, false)
			}
		}
		if p.taken == 0 {
			t.gauge.failures, t.gauge.until = failures, time.Time{} // these have failed before, when others didn't
		}
	}
	return p, t.settle(b.rows, p)
}

// settlement is what became of a parked row.
type settlement struct {
	Partition int     `json:"partition"`
	Seq       int64   `json:"seq"`
	Kind      string  `json:"kind"`
	Aggregate string  `json:"aggregate"`
	Read      int     `json:"read"` // attempts, as they were read
	Attempts  int     `json:"attempts"`
	Crashes   int     `json:"crashes"`
	Error     string  `json:"error"`
	Dead      bool    `json:"dead"`
	Delay     float64 `json:"delay"`
}

// settlements are what became of parked events: those published, those that failed, and those whose followers are due now.
func settlements(rows []*row, p *tries) (published, unlucky, promoted []settlement) {
	last := map[name]settlement{}
	for _, r := range rows {
		s := settlement{Partition: r.partition, Seq: r.seq, Kind: r.AggregateType, Aggregate: r.AggregateID, Read: r.attempts, Attempts: r.attempts, Crashes: r.crashes, Delay: r.after}
		switch r.state {
		case sent:
			published = append(published, s)
		case failed, dead:
			s.Error, s.Dead = lastError(r.err), r.state == dead
			if r.bad == nil {
				s.Read--
			}
			unlucky = append(unlucky, s)
		}
		last[r.aggregate()] = s
	}
	for a, s := range last {
		if !p.blocked[a] {
			promoted = append(promoted, s)
		}
	}
	return published, unlucky, promoted
}

// settle writes down what became of parked events.
func (t *term) settle(rows []*row, p *tries) error {
	published, unlucky, promoted := settlements(rows, p)
	if len(published)+len(unlucky) == 0 {
		return nil
	}
	return t.persist("settle parked events", func(ctx context.Context) error {
		_, err := t.store.settle(ctx, t.lease.id, published, unlucky, promoted)
		return err
	})
}

// settle returns how many of the published ones were still parked, and this owner's.
func (s *store) settle(ctx context.Context, owner string, published, unlucky, promoted []settlement) (removed int64, err error) {
	err = s.inTx(ctx, func(ctx context.Context, tx endstate.Tx) error {
		if err := s.pin(ctx, tx); err != nil {
			return err
		}
		change := func(list []settlement, statement string, columns ...string) (int64, error) {
			if len(list) == 0 {
				return 0, nil
			}
			records := s.records("$3", "r", append(columns, "partition smallint", "seq bigint")...)
			tag, err := tx.Exec(ctx, fmt.Sprintf(statement, s.parked, records, s.mine("p."), s.clock(), s.later("r.delay")), s.cfg.Subscription, owner, toJSON(list))
			return tag.RowsAffected(), err
		}
		if removed, err = change(published, "DELETE FROM %[1]s AS p WHERE %[3]s AND (p.partition, p.seq) IN (SELECT r.partition, r.seq FROM %[2]s)"); err != nil {
			return err
		}
		if _, err := change(unlucky, `UPDATE %[1]s AS p SET attempts = r.attempts, crashes = r.crashes, suspect = (1 = 0), last_error = r.error,
	dead_at = CASE WHEN r.dead THEN %[4]s END, next_attempt_at = CASE WHEN NOT r.dead THEN %[5]s END
FROM %[2]s WHERE %[3]s AND p.partition = r.partition AND p.seq = r.seq AND p.attempts = r.read AND p.dead_at IS NULL`,
			"read integer", "attempts integer", "crashes integer", "error text", "dead boolean", "delay double precision"); err != nil {
			return err
		}
		_, err := change(promoted, `UPDATE %[1]s AS p SET next_attempt_at = %[4]s WHERE %[3]s AND p.dead_at IS NULL AND p.next_attempt_at IS NULL AND (p.partition, p.seq) IN (SELECT r.partition,
	(SELECT w.seq FROM %[1]s w WHERE w.subscription = CAST($1 AS text) AND w.partition = r.partition AND w.aggregate_type = r.kind AND w.aggregate_id = r.aggregate
		AND w.dead_at IS NULL AND w.seq > r.seq ORDER BY w.seq LIMIT 1) FROM %[2]s)`, "kind text", "aggregate text")
		return err
	})
	return removed, err
}

// nextDue returns when the next parked event is due; waits is false when none does.
func (s *store) nextDue(ctx context.Context, owner string) (wait time.Duration, waits bool, err error) {
	var ago *float64
	var waiting int
	// Of each partition the first of its index: a million others may be parked, too.
	parked := fmt.Sprintf("SELECT p.next_attempt_at FROM %s p WHERE p.subscription = c.subscription AND p.partition = c.partition AND p.dead_at IS NULL", s.parked)
	err = s.row(ctx, []any{&ago, &waiting}, fmt.Sprintf(`SELECT %s, coalesce(max(waiting), 0) FROM (SELECT (%s AND p.next_attempt_at IS NOT NULL ORDER BY p.next_attempt_at LIMIT 1) AS due,
	CASE WHEN EXISTS (%[2]s) THEN 1 ELSE 0 END AS waiting FROM %[3]s c WHERE %[4]s) endstate_next`, s.age("min(due)"), parked, s.cursors, s.owned()), s.cfg.Subscription, owner)
	if err != nil || ago == nil {
		return time.Second, waiting > 0, err
	}
	return max(0, -seconds(*ago)), true, nil
}

// gone removes what is parked of events whose rows somebody has deleted, by hand, or a purge beside a replay, and returns how many: nobody
// can publish them, and what is behind them would wait forever. The pieces go by what is left, so that some are found the next time.
func (s *store) gone(ctx context.Context, owner string) (int64, error) {
	return s.change(ctx, owner, "DELETE FROM "+s.parked+" AS p", fmt.Sprintf("p.dead_at IS NULL AND NOT EXISTS (SELECT 1 FROM %s e WHERE e.partition = p.partition AND e.seq = p.seq)", s.events))
}

// free has heads be due that nobody made so: what they were behind was discarded between a reading and its move.
func (s *store) free(ctx context.Context, owner string) error {
	return s.set(ctx, owner, "next_attempt_at = "+s.clock(), "p.dead_at IS NULL AND p.next_attempt_at IS NULL AND NOT "+
		s.earlier("p.subscription, p.partition, p.aggregate_type, p.aggregate_id", "p.seq"))
}

// set sets columns of this owner's parked events p for which a condition holds.
func (s *store) set(ctx context.Context, owner, columns, condition string) error {
	_, err := s.change(ctx, owner, "UPDATE "+s.parked+" AS p SET "+columns, condition)
	return err
}

// change does something to this owner's parked events p for which a condition holds, some thousand in a transaction, and returns to how
// many: with all of them, which may be millions, it would take longer than an answer is waited for.
func (s *store) change(ctx context.Context, owner, do, condition string) (changed int64, err error) {
	next := fmt.Sprintf("SELECT w.partition, w.seq FROM %s w WHERE w.subscription = CAST($1 AS text) AND (w.partition, w.seq) > (CAST($3 AS smallint), CAST($4 AS bigint)) AND CAST($2 AS text) <> '' ORDER BY w.subscription, w.partition, w.seq LIMIT ", s.parked)
	statement := fmt.Sprintf("%s WHERE %s AND (p.partition, p.seq) IN (%s%d) AND %s", do, s.mine("p."), next, s.cfg.piece, condition)
	after, last := place{Partition: -1}, false
	for !last {
		var n int64
		if err := s.inTx(ctx, func(ctx context.Context, tx endstate.Tx) error {
			args := []any{s.cfg.Subscription, owner, after.Partition, after.Seq}
			if err := s.pin(ctx, tx); err != nil {
				return err
			}
			tag, err := tx.Exec(ctx, statement, args...)
			if err != nil {
				return err
			}
			n = tag.RowsAffected()
			err = tx.QueryRow(ctx, fmt.Sprintf("%s1 OFFSET %d", next, s.cfg.piece-1), args...).Scan(&after.Partition, &after.Seq)
			if last = errors.Is(err, pgx.ErrNoRows); last {
				return nil
			}
			return err
		}); err != nil {
			return changed, err
		}
		changed += n
	}
	return changed, nil
}
