package finalize_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
)

// ownGuard is a guard such as a service writes by hand: two methods over its own table, without the library's faster ways
// and without provenance.
type ownGuard struct{ sqlite bool }

var _ guard.Guard = ownGuard{}

func (g ownGuard) Claim(ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error) {
	if g.sqlite {
		if _, err := tx.Exec(ctx, "UPDATE batches SET status = status WHERE false"); err != nil {
			return guard.Record{}, err
		}
		return g.read(ctx, tx, ref)
	}
	for {
		rec, err := g.read(ctx, tx, ref)
		if err != nil || rec.Final {
			return rec, err
		}
		var one int
		err = tx.QueryRow(ctx, "SELECT 1 FROM batches WHERE id = $1 AND status = $2 FOR NO KEY UPDATE", ref.Key.String(), rec.State).Scan(&one)
		if !errors.Is(err, pgx.ErrNoRows) {
			return rec, err
		}
	}
}

func (g ownGuard) read(ctx context.Context, q endstate.Querier, ref guard.Ref) (guard.Record, error) {
	var state string
	err := q.QueryRow(ctx, "SELECT status FROM batches WHERE id = $1", ref.Key.String()).Scan(&state)
	if errors.Is(err, pgx.ErrNoRows) {
		return guard.Record{}, fmt.Errorf("%w: no batch %v", guard.ErrNotFound, ref.Key)
	}
	return guard.Record{Final: terminal(state), State: state}, err
}

func (g ownGuard) Settle(ctx context.Context, tx endstate.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error) {
	if !terminal(to.State) {
		return guard.Record{}, fmt.Errorf("%w: %s", guard.ErrNotTerminal, to.State)
	}
	tag, err := tx.Exec(ctx, "UPDATE batches SET status = $1 WHERE id = $2 AND NOT (status LIKE 'COMPLETE%' OR status LIKE 'ERROR%')", to.State, ref.Key.String())
	if err == nil && tag.RowsAffected() == 0 {
		err = guard.ErrNotOpen
	}
	return guard.Record{Final: true, State: to.State}, err
}

func terminal(state string) bool {
	return strings.HasPrefix(state, "COMPLETE") || strings.HasPrefix(state, "ERROR")
}
