package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// guarded is the same function through the one door.
type guarded struct {
	*store
	options
	fin *finalize.Finalizer[*sql.Tx]
}

func newGuarded(s *store, o options, lock finalize.Locker, tampered tamper) (*guarded, error) {
	g := guard.All(
		guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")},
		guard.Ledger{}, // who, when, which trigger
	)
	if tampered != nil {
		g = tampered(g)
	}
	fin, err := finalize.NewSQL(s.DB, &finalize.Config{
		Aggregate: "batch",
		Guard:     g,
		Cache:     finalize.CacheConfig{Off: tampered != nil}, // which would hide a broken guard from its test
		Lock:      finalize.LockConfig{Locker: lock},          // saves scoring a batch twice; the guard alone keeps it right
		Logger:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	return &guarded{s, o, fin}, nil
}

func (g *guarded) finalize(ctx context.Context, id, trigger string) (string, error) {
	receipt, err := g.fin.DoPrepared(ctx, guard.Text(id), finalize.Trigger(trigger), func(ctx context.Context) (finalize.Func[*sql.Tx], error) {
		// The long work: under the lock, if there is one, and with no transaction open.
		p, err := g.progress(ctx, g, id)
		if err != nil {
			return nil, err
		}
		if !p.ready(g.thresholdPercent) {
			return nil, finalize.ErrNotReady
		}
		if err := g.score(ctx, id, trigger, g.scoring); err != nil {
			return nil, err
		}
		// The short work: it writes what was prepared, in the transaction that finalizes.
		return func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
			if err := g.note(ctx, tx, id, trigger, p, g.thresholdPercent); err != nil {
				return finalize.Outcome{}, err
			}
			return finalize.Outcome{State: "COMPLETE_STABLE", Events: completionEvents(id)}, nil
		}, nil
	})
	switch {
	case errors.Is(err, finalize.ErrNotReady):
		return "not ready", nil
	case err != nil:
		return "", err
	case receipt.Won:
		return "won", nil
	}
	return "lost", nil
}

const completed = "assessment.completed"

// completionEvents are the events of one completion: a thin one for the lifecycle service, a rich one for the results
// service, and a record of consumption for entitlements, where a duplicate means charging twice.
func completionEvents(id string) []outbox.Event {
	payload := fmt.Appendf(nil, `{"batch":%q,"status":"COMPLETE_STABLE"}`, id)
	return []outbox.Event{
		{Type: completed, Payload: payload},
		{Type: "assessment.result", Payload: payload},
		{Type: "resource.consumed", Payload: payload},
	}
}

// score is the expensive part of a completion, and counts how often it runs.
func (s *store) score(ctx context.Context, id, trigger string, takes time.Duration) error {
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	_, err := s.ExecContext(ctx, s.sql(`INSERT INTO scorings VALUES ($1, $2)`), id, trigger)
	return err
}

// note counts a finalization, in its own transaction.
func (s *store) note(ctx context.Context, tx *sql.Tx, id, trigger string, p progress, thresholdPercent int) error {
	premature := 1
	if p.ready(thresholdPercent) {
		premature = 0
	}
	_, err := tx.ExecContext(ctx, s.sql(`INSERT INTO finalizations VALUES ($1, $2, $3)`), id, trigger, premature)
	return err
}
