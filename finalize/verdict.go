package finalize

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// A hit row is no win: what the row says afterwards decides. And where no row was hit though the aggregate was held, nobody
// else can have been in the way: running it again would end the same. The joined statements raise either as a note behind the
// attempt's signal.
const (
	noteState   = "s" // a row says something else than it was told; what follows is its state
	notePart    = "p" // a guard was moved and another one wasn't, or an entry is another call's
	noteUnmoved = "u" // the first guard wasn't moved; what follows is each one's state, as the statement saw it
)

// errUnmoved marks an attempt that held the aggregate and did not move it, or not all of it. It wrote nothing.
var errUnmoved = errors.New("the aggregate was not moved")

// errUnsent marks an error that came before COMMIT could be sent.
var errUnsent = errors.New("nothing was committed")

// unsent marks an error with which a statement was refused before any of it was sent: pgx closes a connection of which it
// doesn't know what went out.
func unsent(conn *pgx.Conn, err error) error {
	if !conn.IsClosed() {
		return fmt.Errorf("%w: %w", errUnsent, err)
	}
	return err
}

// settleError tells what an error of the joined statement means.
func (d *pgxDB) settleError(a *attempt, err error) error {
	if note, ok := sqltx.NewSignal(a.Token).Raised(err); ok {
		return d.verdict(a, note)
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == sqltx.UniqueViolation && pg.TableName == d.cfg.Outbox.Name() {
		return fmt.Errorf("%w: %w", errEvents, err)
	}
	return fmt.Errorf("settle: %w", err)
}

// verdict makes an error of a note.
func (d *pgxDB) verdict(a *attempt, note string) error {
	fields := strings.Split(note, "_") // the first is empty
	text := func(i int) string {
		if i >= len(fields) {
			return ""
		}
		b, _ := hex.DecodeString(strings.TrimPrefix(fields[i], "x"))
		return string(b)
	}
	switch {
	case len(fields) > 1 && fields[1] == noteState:
		return &guard.TransitionError{Ref: a.ref, Want: a.State, Moved: true, State: text(2)}
	case len(fields) > 1 && fields[1] == noteUnmoved:
		for i, plan := range d.plan(a).plans {
			row := sqlplan.Row{State: pgtype.Text{String: text(i + 2), Valid: i+2 < len(fields) && fields[i+2] != ""}}
			found := row.State.Valid || plan.Absent() == nil
			if final := found && plan.Final(&row); final || !found || i == len(d.plan(a).plans)-1 {
				return fmt.Errorf("%w: %w", errUnmoved, &guard.TransitionError{Ref: a.ref, Want: a.State, Found: found, Final: final, State: row.State.String})
			}
		}
	}
	return fmt.Errorf("%w: %w", errUnmoved, &guard.TransitionError{Ref: a.ref, Want: a.State, Found: true})
}

// settleOwnError tells what an error of Guard.Settle means.
func settleOwnError(err error) error {
	if errors.Is(err, guard.ErrNotOpen) || errors.Is(err, guard.ErrRefused) {
		return fmt.Errorf("%w: settle: %w", errUnmoved, err)
	}
	return fmt.Errorf("settle: %w", err)
}

// kept says what is wrong with the record that a Settle returned.
func (a *attempt) kept(rec guard.Record) error {
	if !rec.Final || rec.State != a.State {
		return &guard.TransitionError{Ref: a.ref, Want: a.State, Moved: true, State: rec.State}
	}
	return nil
}

// keptStill reads the record again, at the end of the attempt's transaction.
func keptStill(ctx context.Context, g guard.Guard, q endstate.Querier, a *attempt) error {
	r, ok := readable(g)
	if !ok {
		return nil
	}
	rec, err := r.Read(ctx, q, a.ref)
	switch anomaly, ok := errors.AsType[*guard.AnomalyError](err); {
	case ok:
		for _, of := range anomaly.Records {
			if err := a.kept(of.Record); err != nil {
				return err
			}
		}
		return err
	case errors.Is(err, guard.ErrNotFound):
		return &guard.TransitionError{Ref: a.ref, Want: a.State, Moved: true}
	case err != nil:
		return fmt.Errorf("look again: %w", err)
	}
	return a.kept(rec)
}

// readable is g as a Reader, if it is one.
func readable(g guard.Guard) (guard.Reader, bool) {
	if all, ok := g.(interface{ Readable() bool }); ok && !all.Readable() {
		return nil, false
	}
	r, ok := g.(guard.Reader)
	return r, ok
}

// unmoved tells a refusal from the rare race with somebody who writes without the guard's lock: then the aggregate is final.
func (f *Finalizer[Tx]) unmoved(ctx context.Context, s session[Tx], a *attempt, cause error) (Receipt, error) {
	s.rollback(ctx)
	var rec guard.Record
	var err error
	if r, ok := readable(f.cfg.Guard); !s.callers() {
		rec, err = f.peek(ctx, a)
	} else if ok {
		rec, err = r.Read(ctx, s.outside(), a.ref)
	}
	switch {
	case err == nil && rec.Final:
		return receiptOf(rec, false), nil
	case errors.Is(err, guard.ErrAnomaly), errors.Is(err, guard.ErrNotFound):
		return Receipt{}, err
	}
	return Receipt{}, withCause(ctx, cause)
}
