package finalize

import (
	"context"
	"fmt"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// finishInPieces is finish for more events than one message should carry.
func (s *pgxSession) finishInPieces(ctx context.Context, a *attempt) (guard.Record, error) {
	st := s.plan.finish[0]()
	err := s.db.interruptibly(ctx, patient, s.conn, func(ctx context.Context) error {
		rows, err := s.conn.Query(ctx, st.SQL, st.Args(&a.Call)...)
		if err == nil {
			_, err = s.plan.scanWritten(rows, a)
		}
		return err
	})
	if err != nil {
		return guard.Record{}, s.stale(ctx, a, s.db.settleError(a, err))
	}
	if err := s.insertFirst(ctx, a); err != nil {
		return guard.Record{}, err
	}
	return s.plan.settled(a), s.last(ctx, a, sqlplan.Statement{}, s.again)
}

// insertFirst writes the events, a statement at a time, ahead of the commit.
func (s *pgxSession) insertFirst(ctx context.Context, a *attempt) error {
	var stored int64
	for query, args := range outboxSQL(s.db.cfg.Outbox).Inserts(sqltx.Postgres, a.rows()) {
		err := s.db.interruptibly(ctx, patient, s.conn, func(ctx context.Context) error {
			tag, err := s.conn.Exec(ctx, query, args...)
			stored += tag.RowsAffected()
			return err
		})
		if err != nil {
			return fmt.Errorf("%w: %w", errEvents, err)
		}
	}
	return allStored(ctx, s.db.cfg.Outbox, s.conn, a, stored)
}
