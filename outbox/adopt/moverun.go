package adopt

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// MoveResult is what a run did.
type MoveResult struct {
	Table  string `json:"table"`
	Outbox string `json:"outbox"`
	Moved  int64  `json:"moved"` // events that this run moved; of Undo, that it moved back
	// Left counts, of Undo, the dead letters that stay in the outbox.
	Left int64 `json:"left"`
}

// Apply moves the events. It may be run again after it failed or was killed, and is done when it returns nil: from then on
// writers' transactions move what they write, until Finish or Undo.
func (m *Move) Apply(ctx context.Context) (*MoveResult, error) {
	if _, err := m.Plan(ctx); err != nil { // before anything is touched
		return nil, err
	}
	return m.run(ctx, "move", func(s *moveSession) error {
		for {
			if err := s.drain(ctx); err != nil {
				return err
			}
			done, err := s.takeOver(ctx)
			if err != nil || done {
				return err
			}
		}
	})
}

// Finish ends a move once no writer puts events into the old table any more: the trigger goes, and the table can be dropped.
func (m *Move) Finish(ctx context.Context) (*MoveResult, error) {
	return m.run(ctx, "finish the move", func(s *moveSession) error {
		return s.locked(ctx, func(tx pgx.Tx) error {
			if there, err := s.moving(ctx, tx); err != nil {
				return err
			} else if !there {
				return fmt.Errorf("%w: %s is not being moved from", ErrNothing, s.table())
			}
			for _, statement := range s.dropTrigger() {
				if _, err := tx.Exec(ctx, statement); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// ErrRelay is returned by Undo while a relay publishes the outbox.
var ErrRelay = errors.New("adopt: a relay publishes the outbox")

// Undo gives back what the subscription's relays haven't published: these events leave the outbox and are pending in the table
// that they came from, for the service's own relay. It is refused with ErrRelay while a relay runs. Dead letters stay.
func (m *Move) Undo(ctx context.Context) (*MoveResult, error) {
	return m.run(ctx, "undo the move", func(s *moveSession) error {
		return s.locked(ctx, func(tx pgx.Tx) error { return s.giveBack(ctx, tx) })
	})
}

// moveSession is the one connection that a move runs on: see session.
type moveSession struct {
	*session
	*moveSource
	result *MoveResult
}

func (m *Move) run(ctx context.Context, what string, f func(*moveSession) error) (*MoveResult, error) {
	pooled, err := m.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("adopt: %s: %w", what, err)
	}
	base := &session{Conn: pooled.Hijack()}
	defer base.close(ctx)
	s := &moveSession{session: base}
	err = base.settle(ctx, m.cfg.LockTimeout)
	if err == nil {
		err = pgx.BeginFunc(ctx, base.Conn, func(tx pgx.Tx) (err error) {
			s.moveSource, err = lookMove(ctx, tx, m.cfg)
			return err
		})
	}
	if err == nil {
		base.target = &target{cfg: Config{Schema: s.cfg().Schema, Table: s.cfg().Table, Logger: m.cfg.Logger, Progress: m.cfg.Progress, LockTimeout: m.cfg.LockTimeout}, oid: s.moveSource.oid}
		err = base.takeTurn(ctx)
	}
	if err == nil {
		s.result = &MoveResult{Table: s.moveSource.table(), Outbox: s.outbox()}
		err = f(s)
	}
	if err != nil {
		return nil, fmt.Errorf("adopt: %s: %w", what, err)
	}
	return s.result, nil
}

func (s *moveSession) cfg() *MoveConfig { return &s.moveSource.cfg }
func (s *moveSession) table() string    { return s.moveSource.table() }

func (s *moveSession) report(ctx context.Context, step string, done int64) {
	if done == 0 {
		s.cfg().Logger.InfoContext(ctx, "adopt: "+step, "table", s.table())
	}
	s.cfg().Progress(step, done)
}

// drain moves what is pending, batch by batch, until little is left.
func (s *moveSession) drain(ctx context.Context) error {
	s.report(ctx, "move pending events", s.result.Moved)
	for {
		tag, err := s.Exec(ctx, s.batch())
		if sqltx.Conflicted(err) || sqltx.State(err) == lockNotAvailable {
			if err := pause(ctx, s.cfg().LockTimeout/10); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		s.result.Moved += tag.RowsAffected()
		s.report(ctx, "move pending events", max(s.result.Moved, 1))
		if tag.RowsAffected() < int64(s.cfg().Batch) {
			return nil
		}
	}
}

// takeOver moves the rest and makes the trigger while nobody writes, unless the rest is more than a batch by now.
func (s *moveSession) takeOver(ctx context.Context) (done bool, err error) {
	s.report(ctx, "take over from the writers", 0)
	var moved int64
	err = s.locked(ctx, func(tx pgx.Tx) error {
		moved = 0
		// Whoever has written has committed when this is granted, and whoever wants to write waits.
		if _, err := tx.Exec(ctx, fmt.Sprintf("LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE", s.table())); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, s.batch())
		if err != nil {
			return err
		}
		if moved = tag.RowsAffected(); moved == int64(s.cfg().Batch) {
			return nil
		}
		done, err = s.moving(ctx, tx)
		if err != nil || done {
			return err
		}
		for _, statement := range s.trigger() {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		done = true
		return nil
	})
	if err == nil {
		s.result.Moved += moved
	}
	return done && err == nil, err
}

// giveBack returns the events that aren't published, in the transaction that takes the trigger away.
func (s *moveSession) giveBack(ctx context.Context, tx pgx.Tx) error {
	name := func(suffix string) string { return sqltx.Quote(s.cfg().Outbox.Schema, s.cfg().Outbox.Name()+suffix) }
	if there, err := s.moving(ctx, tx); err != nil {
		return err
	} else if !there {
		return fmt.Errorf("%w: %s is not being moved from", ErrNothing, s.table())
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE", s.table())); err != nil {
		return err
	}
	// A relay that starts meanwhile waits for its lease.
	if _, err := tx.Exec(ctx, fmt.Sprintf("LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE", name("_relays"))); err != nil {
		return err
	}
	var relay *string
	if err := tx.QueryRow(ctx, fmt.Sprintf("SELECT min(name) FROM %s WHERE expires_at >= clock_timestamp()", name("_relays"))).Scan(&relay); err != nil {
		return err
	}
	if relay != nil {
		return fmt.Errorf("%w: %s runs; stop it first", ErrRelay, *relay)
	}
	for _, statement := range s.dropTrigger() {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return err
		}
	}
	subscription := sqltx.Literal(s.cfg().Subscription)
	// What the subscription's cursor hasn't passed, what its snapshot doesn't show, and what was set aside and isn't dead.
	tag, err := tx.Exec(ctx, fmt.Sprintf(`WITH endstate_pending AS MATERIALIZED (
	SELECT e.partition, e.seq, e.id FROM %[1]s e
	LEFT JOIN %[2]s c ON c.subscription = %[4]s AND c.partition = e.partition
	LEFT JOIN %[3]s p ON p.subscription = %[4]s AND p.partition = e.partition AND p.seq = e.seq
	WHERE p.dead_at IS NULL AND (c.position IS NULL OR e.seq > c.position OR p.seq IS NOT NULL
		OR e.seq > c.restored_through AND NOT pg_visible_in_snapshot(e.txid, c.snapshot))),
endstate_back AS (UPDATE %[5]s t SET %[6]s = %[7]s FROM endstate_pending k WHERE k.id = %[8]s RETURNING k.partition, k.seq, k.id),
endstate_unparked AS (DELETE FROM %[3]s p USING endstate_back b WHERE p.partition = b.partition AND p.seq = b.seq)
DELETE FROM %[1]s e USING endstate_back b WHERE e.partition = b.partition AND e.seq = b.seq`,
		name(""), name("_cursors"), name("_parked"), subscription, s.table(), sqltx.Quote("", s.cfg().Published), s.unpublished(), s.eventID("t.")))
	if err != nil {
		return err
	}
	s.result.Moved = tag.RowsAffected()
	return tx.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s WHERE subscription = %s AND dead_at IS NOT NULL", name("_parked"), subscription)).Scan(&s.result.Left)
}
