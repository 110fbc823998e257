package finalize

import (
	"context"
	"errors"
	"fmt"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// On SQLite, which writes one transaction at a time and flushes each, many aggregates are settled in one. On PostgreSQL it
// would hold the aggregates that come first while it waits for those that come later.
var _ bulkSettler = (*sqlDB)(nil)

func (d *sqlDB) bulkSize(*attempt) int {
	if d.dialect == sqltx.SQLite {
		return 100
	}
	return 0
}

func (d *sqlDB) settleBulk(ctx context.Context, attempts []*attempt) ([]settled, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.ClaimTimeout, ErrBusy)
	defer cancel()
	s, err := d.begin(ctx)
	if err != nil {
		return nil, withCause(ctx, err)
	}
	defer s.rollback(ctx)
	results := make([]settled, len(attempts))
	for i, a := range attempts {
		rec, err := d.cfg.Guard.Claim(ctx, s.guardTx, a.ref)
		if errors.Is(err, guard.ErrNotFound) || errors.Is(err, guard.ErrAnomaly) {
			continue // it is told so alone
		}
		if err == nil && !rec.Final {
			rec, err = s.write(ctx, a)
			results[i].won = true
		}
		if err != nil {
			return nil, withCause(ctx, err)
		}
		results[i].rec, results[i].done = rec, true
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := s.end(ctx); err != nil {
		return nil, withCause(ctx, err)
	}
	return results, nil
}

func (d *sqlDB) resume(ctx context.Context, f *core, a *attempt, cause error) (Receipt, error) {
	return f.resolve(ctx, a, d.look, fmt.Errorf("settled with others: %w", cause))
}
