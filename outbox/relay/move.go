package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// The ways in which a cursor moves.
const (
	moveAll   = "all"   // to the position, with the reading's snapshot
	movePiece = "piece" // late rows are left: only how far they are
	moveHold  = "hold"  // not at all: only rows are parked
)

// move is one cursor's move. It takes effect if the cursor has Token, which becomes Next, and the incarnation is the reading's.
type move struct {
	Partition int    `json:"partition"`
	Token     string `json:"token"`
	Next      string `json:"next"`
	Mode      string `json:"mode"`
	Shown     int64  `json:"shown"` // the position that the reading's snapshot showed: never one from memory, nor the row's
	Position  int64  `json:"position"`
	Late      int64  `json:"late"`
	Foreign   int64  `json:"foreign_through"`
	Careful   int    `json:"careful"`
}

// park is a row for the parked events.
type park struct {
	Partition int      `json:"partition"`
	Seq       int64    `json:"seq"`
	ID        string   `json:"id"`
	Kind      string   `json:"kind"`
	Aggregate string   `json:"aggregate"`
	Attempts  int      `json:"attempts"`
	Suspect   bool     `json:"suspect"`
	Error     *string  `json:"error"`
	Dead      bool     `json:"dead"`
	Delay     *float64 `json:"delay"` // seconds; nil: behind another one
}

// parkOf is the row for r.
func parkOf(r *row) park {
	p := park{Partition: r.partition, Seq: r.seq, ID: r.ID.String(), Kind: r.AggregateType, Aggregate: r.AggregateID, Attempts: r.attempts, Dead: r.state == dead}
	if r.state == failed {
		p.Delay = &r.after
	}
	if r.err != nil {
		text := lastError(r.err)
		p.Error = &text
	}
	return p
}

// movingStatement is the one by which cursors move.
func (s *store) movingStatement() string {
	shown := s.either(`prior_position = CASE m.mode WHEN 'all' THEN m.shown ELSE c.prior_position END,
	snapshot = CASE m.mode WHEN 'all' THEN coalesce(c.late_snapshot, $3::text::pg_snapshot) ELSE c.snapshot END,
	late_snapshot = CASE m.mode WHEN 'piece' THEN coalesce(c.late_snapshot, $3::text::pg_snapshot) WHEN 'hold' THEN c.late_snapshot END,
	late_through = CASE m.mode WHEN 'piece' THEN m.late WHEN 'hold' THEN c.late_through ELSE 0 END,
	restored_through = greatest(c.restored_through, m.foreign_through), restored = c.restored AND m.mode <> 'all', `, "")
	return fmt.Sprintf(`UPDATE %s AS c SET token = m.next, position = CASE WHEN m.mode = 'all' AND m.position > c.position THEN m.position ELSE c.position END,
	%splacements = CASE WHEN c.placements > 0 THEN c.placements - 1 ELSE 0 END, careful = m.careful
FROM %s WHERE c.subscription = CAST($1 AS text) AND c.partition = m.partition AND c.token = m.token%s RETURNING %s`, s.cursors, shown,
		s.records("$2", "m", "partition smallint", "token uuid", "next uuid", "mode text", "shown bigint", "position bigint", "late bigint", "foreign_through bigint", "careful integer"),
		s.either(fmt.Sprintf(" AND %s = $4::text::uuid", s.incarnated()), ""), s.either("c.partition", "partition"))
}

// move moves cursors and parks rows, in one transaction, which takes its id after the reading's snapshot. It returns the
// partitions that were moved: the others have another owner, or another incarnation's database. A move whose answer was lost may
// be sent again: its token tells.
func (s *store) move(ctx context.Context, moves []move, now, incarnation string, parks []park) (moved []int, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	list, _ := json.Marshal(moves) // can't fail
	args := []any{s.cfg.Subscription, string(list), now, incarnation}
	if s.dialect == sqltx.SQLite {
		args = args[:2]
	}
	one := func(q endstate.Querier) error {
		moved = nil
		return each(ctx, q, func(row pgx.Row) error {
			var p int
			err := row.Scan(&p)
			moved = append(moved, p)
			return err
		}, s.moving, args...)
	}
	if len(parks) == 0 {
		err = one(s)
	} else {
		err = s.inTx(ctx, func(ctx context.Context, tx endstate.Tx) error {
			if err := one(tx); err != nil {
				return err
			}
			return s.park(ctx, tx, slices.DeleteFunc(slices.Clone(parks), func(p park) bool { return !slices.Contains(moved, p.Partition) }))
		})
	}
	if err != nil || len(moved) == len(moves) {
		return moved, err
	}
	err = each(ctx, s, func(row pgx.Row) error {
		var p int
		var token string
		err := row.Scan(&p, &token)
		if slices.ContainsFunc(moves, func(m move) bool { return m.Partition == p && m.Next == token }) && !slices.Contains(moved, p) {
			moved = append(moved, p) // by an attempt whose answer was lost
		}
		return err
	}, fmt.Sprintf("SELECT partition, CAST(token AS text) FROM %s WHERE subscription = CAST($1 AS text)", s.cursors), s.cfg.Subscription)
	return moved, err
}

func (s *store) park(ctx context.Context, q endstate.Querier, parks []park) error {
	if len(parks) == 0 {
		return nil
	}
	_, err := q.Exec(ctx, fmt.Sprintf(`INSERT INTO %s (subscription, partition, seq, event_id, aggregate_type, aggregate_id, attempts, suspect, next_attempt_at, last_error, dead_at)
SELECT CAST($1 AS text), r.partition, r.seq, r.id, r.kind, r.aggregate, r.attempts, %s, CASE WHEN r.delay IS NOT NULL THEN %s END, r.error, CASE WHEN r.dead THEN %s END
FROM %s WHERE true ON CONFLICT DO NOTHING`, s.parked, s.either("r.suspect", "CASE WHEN r.suspect THEN 1 ELSE 0 END"), s.later("r.delay"), s.clock(),
		s.records("$2", "r", "partition smallint", "seq bigint", "id uuid", "kind text", "aggregate text", "attempts integer", "suspect boolean", "error text", "dead boolean", "delay double precision")),
		s.cfg.Subscription, toJSON(parks))
	return err
}

// moveBatch writes down what became of a batch. It doesn't give up before the lease is lost: until then nobody else knows.
// stopping says that nobody goes on from here with what is in memory.
func (t *term) moveBatch(b *batch, stopping bool) error {
	all, moves, parks := b.moves(t.sent, stopping)
	if len(moves) > 0 {
		var moved []int
		if err := t.persist("move the cursors", func(ctx context.Context) (err error) {
			moved, err = t.store.move(ctx, moves, b.cursors[0].Now, b.cursors[0].Incarnation, parks)
			return err
		}); err != nil {
			return err
		}
		if len(moved) < len(moves) {
			t.log.WarnContext(t.lease.ctx, "outbox relay: moves refused, the partitions are another's; their events are published again", "moves", len(moves), "refused", len(moves)-len(moved))
		}
		for _, m := range moves {
			if !slices.Contains(moved, m.Partition) {
				delete(t.sent, m.Partition)
				b.parts[m.Partition] = nil
			}
		}
	}
	if len(parks) > 0 {
		t.waiting, t.nextDue = true, time.Now()
	}
	for _, m := range all {
		t.remember(m, b.parts[m.Partition])
	}
	return nil
}

// remember keeps which events are published that the cursor hasn't passed, since earlier ones are open.
func (t *term) remember(m move, rows []*row) {
	memory := t.sent[m.Partition]
	if m.Mode != moveHold {
		for seq := range memory {
			if seq <= m.Position {
				delete(memory, seq)
			}
		}
	}
	for _, r := range rows {
		if r.state == sent && (m.Mode == moveHold || r.seq > m.Position) {
			if memory == nil {
				memory = map[int64]bool{}
				t.sent[m.Partition] = memory
			}
			memory[r.seq] = true
		}
	}
	if t.tokens[m.Partition] = m.Next; len(memory) == 0 {
		delete(t.sent, m.Partition)
	}
}

// moves are those of a batch's cursors: all, with a hold for each that has nothing to write down, and those that are needed.
func (b *batch) moves(beyond map[int]map[int64]bool, stopping bool) (all, needed []move, parks []park) {
	for i := range b.cursors {
		c := &b.cursors[i]
		m, mine, needs := b.moveOf(c, beyond[c.Partition] != nil, stopping)
		if needs {
			needed, parks = append(needed, m), append(parks, mine...)
		} else {
			m.Mode, m.Next = moveHold, m.Token // it stays as it is
		}
		all = append(all, m)
	}
	return all, needed, parks
}

// moveOf is the move of a batch's cursor, and what it parks. beyond says that events are published that the cursor hasn't passed.
func (b *batch) moveOf(c *cursor, beyond, stopping bool) (m move, parks []park, needed bool) {
	m = move{Partition: c.Partition, Token: c.Token, Next: newToken(), Mode: moveAll, Shown: c.Position, Position: c.Position, Careful: c.Careful}
	if b.pieces[c.Partition] {
		m.Mode = movePiece
	}
	rows := b.parts[c.Partition]
	if stopping && (beyond || sentAfterTodo(rows)) {
		b.hold(c.Partition)
	}
	open, late := false, false
	for _, r := range rows {
		switch r.state {
		case failed, dead, held:
			parks = append(parks, parkOf(r))
		case todo:
			open = true
			if r.kind == lateRow {
				m.Mode = moveHold
			}
		}
		switch {
		case r.kind == lateRow:
			late, m.Late = true, r.seq
		case !open:
			m.Position = r.seq
		}
		if r.foreign {
			m.Foreign = max(m.Foreign, r.seq)
		}
	}
	if m.Mode == moveAll && c.Restored {
		m.Foreign = m.Position
	}
	// The last term is the move after a last batch: with it, idle looks needn't ask for what is newer than the snapshot.
	needed = len(parks) > 0 || m.Mode != moveHold && late || m.Position > c.Position || c.Pieces && m.Mode == moveAll || m.Mode == moveAll && (c.Restored || c.Prior < c.Position)
	return m, parks, needed
}

// hold has the rows of a partition that are still to be tried be parked, without an attempt: an aggregate's first one is due at once,
// and the others wait behind it.
func (b *batch) hold(partition int) {
	waiting := map[name]bool{}
	for _, r := range b.parts[partition] {
		switch a := r.aggregate(); r.state {
		case todo:
			if r.state, r.after = failed, 0; waiting[a] && !b.unordered {
				r.state = held
			}
			waiting[a] = true
		case failed, held:
			waiting[a] = true
		}
	}
}

func newToken() string { return uuid.NewString() }

func sentAfterTodo(rows []*row) bool {
	open := false
	for _, r := range rows {
		if open && r.state == sent {
			return true
		}
		open = open || r.state == todo
	}
	return false
}

// persist does what mustn't be lost, again and again until it is done or the lease is lost.
func (t *term) persist(what string, do func(ctx context.Context) error) error {
	for attempt := 1; ; attempt++ {
		// Not the lease's context: what was published is written down also after a shutdown has taken too long. The token fences it.
		err := do(context.WithoutCancel(t.lease.ctx))
		if err == nil {
			return nil
		}
		err = fmt.Errorf("%s: %w", what, err)
		if t.lease.lost() {
			return err
		}
		t.reconnecting(t.lease.ctx, err, attempt)
	}
}
