package adopt

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// Undo drops the unique index and puts the removed rows back, in batches. Unpublished ones among them will be published: that
// is what undoing means. Columns that were added stay, since there may be data in them. It may be run again after it failed
// or was killed; it returns ErrNothing for a table that was not adopted.
func (a *Adoption) Undo(ctx context.Context) (*Result, error) {
	s, err := a.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("adopt: undo: %w", err)
	}
	defer s.close(ctx)
	result, err := s.undo(ctx)
	if err != nil {
		return nil, fmt.Errorf("adopt: undo %s: %w", s.table(), err)
	}
	return result, nil
}

func (s *session) undo(ctx context.Context) (*Result, error) {
	if begun, err := s.exists(ctx, s.Conn, s.log()); err != nil || !begun {
		return nil, notBegun(err)
	}
	var begun bool
	if err := s.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+s.log()+" WHERE target = $1::text)", s.table()).Scan(&begun); err != nil || !begun {
		return nil, notBegun(err)
	}
	r := &Result{Table: s.table(), Backup: s.backup(), Index: sqltx.Quote(s.cfg.Schema, s.unique())}
	if err := s.step(ctx, "undo"); err != nil {
		return nil, err
	}
	if err := s.cleanUp(ctx); err != nil {
		return nil, err
	}
	if err := s.dropIndex(ctx, s.unique()); err != nil {
		return nil, err
	}
	backed, err := s.exists(ctx, s.Conn, s.backup())
	if err != nil {
		return nil, err
	}
	if backed {
		if err := s.locked(ctx, func(tx pgx.Tx) error { return s.completeBackup(ctx, tx) }); err != nil {
			return nil, err
		}
	}
	for moved := int64(1); backed && moved > 0; r.Moved += moved {
		err := s.locked(ctx, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, fmt.Sprintf(`WITH endstate_back AS (
	DELETE FROM %[1]s WHERE ctid IN (SELECT ctid FROM %[1]s LIMIT %[2]d) RETURNING %[3]s)
INSERT INTO %[4]s (%[3]s) OVERRIDING SYSTEM VALUE SELECT %[3]s FROM endstate_back`, s.backup(), s.cfg.Batch, quoted(s.order, ""), s.table()))
			moved = tag.RowsAffected()
			return err
		})
		if err != nil {
			return nil, err
		}
		s.cfg.Progress("put rows back", r.Moved+moved)
	}
	return r, s.locked(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "DROP TABLE IF EXISTS "+s.backup()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM "+s.log()+" WHERE target = $1::text", s.table())
		return err
	})
}

func notBegun(err error) error {
	if err != nil {
		return err
	}
	return ErrNothing
}
