package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

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
func (t *term) retry(ctx context.Context, found []row) (*tries, error) {
	b := t.newBatch(nil, found, len(found)+1, batchBytes>>t.shrunk)
	if err := t.store.payloads(ctx, b.rows); err != nil {
		return &tries{}, t.timedOut(ctx, err)
	}
	failures := t.gauge.failures
	trusts := t.gauge.trusts(time.Now())
	var p *tries
	if t.begin == nil {
		p = t.publishRows(ctx, b.rows)
	} else if tried, err := t.handleParked(ctx, b.rows); err != nil {
		return tried, err
	} else {
		p = tried
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

// mine is the condition that a parked row is of a partition that the owner has. $1 is the subscription, and $2 the owner.
func (s *store) mine(alias string) string {
	return fmt.Sprintf("%[1]ssubscription = CAST($1 AS text) AND %[1]spartition IN (SELECT c.partition FROM %[2]s c WHERE c.subscription = CAST($1 AS text) AND c.owner = %[3]s)",
		alias, s.cursors, s.uuid("CAST($2 AS text)"))
}

// settle returns how many of the published ones were still parked, and this owner's.
func (s *store) settle(ctx context.Context, owner string, published, unlucky, promoted []settlement) (removed int64, err error) {
	mine := s.mine("")
	key := [][2]string{{"partition", "smallint"}, {"seq", "bigint"}}
	err = s.inTx(ctx, func(tx endstate.Tx) error {
		removed = 0
		if !s.sqlite() {
			if _, err := tx.Exec(ctx, pins); err != nil {
				return err
			}
		}
		change := func(list []settlement, statement string) (int64, error) {
			if len(list) == 0 {
				return 0, nil
			}
			tag, err := tx.Exec(ctx, statement, s.cfg.Subscription, owner, toJSON(list))
			return tag.RowsAffected(), err
		}
		if removed, err = change(published, fmt.Sprintf("DELETE FROM %s WHERE %s AND (partition, seq) IN (SELECT r.partition, r.seq FROM %s)", s.parked, mine, s.records("$3", "r", key...))); err != nil {
			return err
		}
		if _, err := change(unlucky, fmt.Sprintf(`UPDATE %s AS p SET attempts = r.attempts, crashes = r.crashes, suspect = (1 = 0), last_error = r.error,
	dead_at = CASE WHEN r.dead THEN %s END, next_attempt_at = CASE WHEN NOT r.dead THEN %s END
FROM %s WHERE %s AND p.partition = r.partition AND p.seq = r.seq AND p.attempts = r.read AND p.dead_at IS NULL`, s.parked, s.clock(), s.later("r.delay"),
			s.records("$3", "r", append(key, [2]string{"read", "integer"}, [2]string{"attempts", "integer"}, [2]string{"crashes", "integer"}, [2]string{"error", "text"},
				[2]string{"dead", "boolean"}, [2]string{"delay", "double precision"})...), s.mine("p."))); err != nil {
			return err
		}
		_, err := change(promoted, fmt.Sprintf(`UPDATE %[1]s SET next_attempt_at = %[2]s WHERE %[3]s AND dead_at IS NULL AND next_attempt_at IS NULL AND (partition, seq) IN (SELECT r.partition,
	(SELECT w.seq FROM %[1]s w WHERE w.subscription = CAST($1 AS text) AND w.partition = r.partition AND w.aggregate_type = r.kind AND w.aggregate_id = r.aggregate
		AND w.dead_at IS NULL AND w.seq > r.seq ORDER BY w.seq LIMIT 1) FROM %[4]s)`, s.parked, s.clock(), mine,
			s.records("$3", "r", append(key, [2]string{"kind", "text"}, [2]string{"aggregate", "text"})...)))
		return err
	})
	return removed, err
}

// nextDue returns when the next parked event is due; any is false when none waits.
func (s *store) nextDue(ctx context.Context, owner string) (wait time.Duration, any bool, err error) {
	var seconds *float64
	var waiting int
	due := fmt.Sprintf("FROM %s p WHERE %s AND p.dead_at IS NULL", s.parked, s.mine("p."))
	err = s.QueryRow(ctx, fmt.Sprintf("SELECT -1.0 * %s, (SELECT count(*) FROM (SELECT 1 %s LIMIT 1) one)", s.age(fmt.Sprintf("(SELECT min(p.next_attempt_at) %s)", due)), due),
		s.cfg.Subscription, owner).Scan(&seconds, &waiting)
	if err != nil || seconds == nil {
		return time.Second, waiting > 0, err
	}
	return time.Duration(max(0, *seconds) * float64(time.Second)), true, nil
}

// free has heads be due that nobody made so: what they were behind was discarded between a reading and its move.
func (s *store) free(ctx context.Context, owner string) error {
	_, err := s.Exec(ctx, fmt.Sprintf(`UPDATE %[1]s AS p SET next_attempt_at = %[2]s WHERE %[3]s AND p.dead_at IS NULL AND p.next_attempt_at IS NULL AND NOT EXISTS (SELECT 1 FROM %[1]s w
	WHERE w.subscription = p.subscription AND w.partition = p.partition AND w.aggregate_type = p.aggregate_type AND w.aggregate_id = p.aggregate_id AND w.dead_at IS NULL AND w.seq < p.seq)`,
		s.parked, s.clock(), s.mine("p.")), s.cfg.Subscription, owner)
	return err
}
