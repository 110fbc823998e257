package finalize

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// attempt is the state of one call. Its token and the ids of its events tell, in the database, whether it won.
type attempt struct {
	sqlplan.Call
	ref    guard.Ref
	events []outbox.Event     // the outcome's, with their defaults
	rows   []sqlplan.Event    // the same as they are inserted, with what Outbox.Headers adds
	at     pgtype.Timestamptz // when it settled the aggregate, if a ledger says so
	xid    string
	number int
	start  time.Time
}

func (f *core) newAttempt(ref guard.Ref, trigger Trigger) (*attempt, error) {
	key := ref.Key
	if err := key.Validate(); err != nil {
		return nil, fmt.Errorf("finalize: %s: key: %w", ref.Aggregate, err)
	}
	if err := checkName(string(trigger)); err != nil {
		return nil, fmt.Errorf("finalize: %v: trigger %w", ref, err)
	}
	token, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("finalize: %v: new attempt token: %w", ref, err)
	}
	return &attempt{
		Call:  sqlplan.Call{Aggregate: ref.Aggregate, Key: key.Encode(), Parts: key.Args(), Trigger: string(trigger), Token: token, Signal: string(sqltx.NewSignal())},
		ref:   ref,
		start: time.Now(),
	}, nil
}

// dedupKey is the default dedup key of an event: the aggregate, its key and the event's type.
func dedupKey(a *attempt, eventType string) string {
	return escape.Replace(a.Aggregate) + "/" + a.Key + "#" + eventType
}

// checkState says why an outcome can't have this state.
func (f *core) checkState(ref guard.Ref, state string) error {
	if err := checkName(state); err != nil {
		return fmt.Errorf("finalize: %v: Outcome.State %w: %w", ref, err, guard.ErrNotTerminal)
	}
	if err := f.cfg.guards.CheckTarget(ref, guard.Transition{State: state}); err != nil {
		return fmt.Errorf("finalize: %v: Outcome.State: %w", ref, err)
	}
	return nil
}

// prepare puts an outcome into the attempt, or says what is wrong with it.
func (f *core) prepare(ctx context.Context, a *attempt, out Outcome) error {
	if err := f.checkState(a.ref, out.State); err != nil {
		return err
	}
	asked := make([]outbox.Event, len(out.Events))
	for i, e := range out.Events {
		if e.AggregateType == "" {
			e.AggregateType = a.ref.Aggregate
		}
		if e.AggregateID == "" {
			e.AggregateID = a.ref.Key.String()
		}
		if e.DedupKey == "" {
			e.DedupKey = dedupKey(a, e.Type)
		}
		asked[i] = e
	}
	events, err := f.cfg.Outbox.Prepare(ctx, asked)
	if err != nil {
		return fmt.Errorf("finalize: %v: Outcome.Events: %w", a.ref, err)
	}
	a.State, a.events, a.rows, a.Digest = out.State, events, make([]sqlplan.Event, len(events)), nil
	for i, e := range events {
		a.rows[i] = sqlplan.Event(e)
		events[i].Headers = asked[i].Headers
	}
	return nil
}

// digest is the outcome's digest, which only a ledger and a guard of the user's own ask for.
func (a *attempt) digest() []byte {
	if a.Digest == nil {
		a.Digest = digest(a.State, a.events)
	}
	return a.Digest
}

func (a *attempt) transition() guard.Transition {
	return guard.Transition{State: a.State, Trigger: a.Trigger, Token: a.Token, Digest: a.digest()}
}

// traced is fn between its hooks.
func (f *Finalizer[Tx]) traced(a *attempt, fn Func[Tx]) Func[Tx] {
	if f.cfg.Trace.Running == nil && f.cfg.Trace.Ran == nil {
		return fn
	}
	return func(ctx context.Context, tx Tx) (Outcome, error) {
		return running(ctx, f.core, a, func(ctx context.Context) (Outcome, error) { return fn(ctx, tx) })
	}
}

// attempt runs one transaction.
func (f *Finalizer[Tx]) attempt(ctx context.Context, a *attempt, claim func() (session[Tx], guard.Record, error), fn Func[Tx]) (Receipt, error) {
	if ctx.Err() != nil {
		return Receipt{}, context.Cause(ctx) // the claim might be answered before it is told
	}
	s, rec, err := claim()
	if s != nil {
		defer s.rollback(ctx) // also on a panic or Goexit in fn
	}
	if err != nil {
		return Receipt{}, err
	}
	if rec.Final {
		return receiptOf(rec, false), nil
	}
	a.xid = rec.XID
	out, err := f.call(ctx, a, s.tx(), fn)
	if err != nil {
		return Receipt{}, s.stale(ctx, a, err)
	}
	if err := f.prepare(ctx, a, out); err != nil {
		return Receipt{}, err
	}
	if err := ctx.Err(); err != nil {
		return Receipt{}, context.Cause(ctx)
	}
	rec, err = s.finish(ctx, a)
	if err == nil {
		return receiptOf(rec, true), nil
	}
	if outbox.Taken(err) && errors.Is(err, errEvents) {
		s.rollback(ctx)
		return Receipt{}, conflict(ctx, f.cfg.Outbox, s.outside(), a, err)
	}
	if errors.Is(err, errUnmoved) {
		return f.unmoved(ctx, s, a, err)
	}
	if errors.Is(err, errUnanswered) {
		s.rollback(ctx) // a pool of one connection has no other to ask on
		return f.resolve(ctx, a, f.db.look, err)
	}
	return Receipt{}, withCause(ctx, err)
}

// undoing returns the context to roll back on. It is detached from the caller's: a cancelled caller must not leak a
// transaction.
func undoing(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
}

// claimed runs a session's claim, and so perhaps code of the user's. When that panics or exits, nobody else gets to
// roll back.
func claimed(ctx context.Context, s interface{ rollback(context.Context) }, claim func(context.Context, *attempt) (guard.Record, error), a *attempt) (guard.Record, error) {
	returned := false
	defer func() {
		if !returned {
			s.rollback(ctx)
		}
	}()
	rec, err := claim(ctx, a)
	returned = true
	return rec, withCause(ctx, err)
}

// conflict names the event that met an earlier one.
func conflict(ctx context.Context, w outbox.Writer, q endstate.Querier, a *attempt, cause error) error {
	holders, err := w.Holders(ctx, q, a.events)
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %w", ErrEventConflict, cause), err)
	}
	for i, holder := range holders {
		if holder != uuid.Nil {
			return &EventConflictError{Ref: a.ref, Type: a.events[i].Type, DedupKey: a.events[i].DedupKey, HeldBy: holder}
		}
	}
	return fmt.Errorf("no event is in the way: it was deleted meanwhile, or the unique index is one of your own, on the outbox or in a trigger's table: %w", cause)
}

// allStored checks that the events are in the outbox, of whose inserts the server said that they wrote so many rows. A trigger
// may have put them somewhere else, such as a child table, where a look finds them.
func allStored(ctx context.Context, w outbox.Writer, q endstate.Querier, a *attempt, rows int64) error {
	if rows >= int64(len(a.events)) {
		return nil
	}
	holders, err := w.Holders(ctx, q, a.events)
	if err != nil {
		return err
	}
	for i, holder := range holders {
		if holder != a.events[i].ID {
			return fmt.Errorf("%w: event %q of %v; look for a BEFORE trigger that returns NULL, or a rule, on table %s", outbox.ErrRefused, a.events[i].Type, a.ref, w.Name())
		}
	}
	return nil
}

// retry runs a whole transaction again for as long as the database breaks it off and it is known not to have committed.
func (f *core) retry(ctx context.Context, a *attempt, run func() (Receipt, error)) (Receipt, error) {
	var pause backoff.BackOff
	began := time.Now()
	for {
		a.number++
		r, err := run()
		if err == nil || !(sqltx.Conflicted(err) || errors.Is(err, errGone) || errors.Is(err, errStale)) || errors.Is(err, ErrOutcomeUnknown) {
			return r, err
		}
		if ctx.Err() != nil {
			return r, withCause(ctx, err)
		}
		if sqltx.Busy(err) {
			// That is a wait for whoever writes, as others wait for a row's lock.
			if time.Since(began) >= f.cfg.ClaimTimeout {
				return r, fmt.Errorf("finalize: %v: gave up after %d attempts: %w: %w", a.ref, a.number, errSQLiteBusy, err)
			}
		} else if a.number >= f.cfg.MaxAttempts {
			return r, fmt.Errorf("finalize: %v: gave up after %d attempts: %w", a.ref, a.number, err)
		}
		if pause == nil {
			pause = f.backoff()
		}
		wait := pause.NextBackOff()
		f.retrying(ctx, a, err, wait)
		if sleep.For(ctx, wait) != nil {
			return Receipt{}, errors.Join(context.Cause(ctx), err)
		}
	}
}

func (f *core) backoff() backoff.BackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 2*time.Millisecond, 250*time.Millisecond
	return b
}

// digest is the SHA-256 of an outcome; every field goes in with its length, so that no two outcomes have one input.
func digest(state string, events []outbox.Event) []byte {
	buf := make([]byte, 0, 512)
	add := func(s string) {
		buf = binary.AppendUvarint(buf, uint64(len(s)))
		buf = append(buf, s...)
	}
	add(state)
	h := sha256.New()
	for i := range events {
		e := &events[i]
		add(e.AggregateType)
		add(e.AggregateID)
		add(e.Type)
		add(e.ContentType)
		add(e.DedupKey)
		buf = binary.AppendUvarint(buf, uint64(e.SchemaVersion))
		buf = binary.AppendUvarint(buf, uint64(len(e.Headers)))
		if len(e.Headers) > 0 {
			for _, key := range slices.Sorted(maps.Keys(e.Headers)) {
				add(key)
				add(e.Headers[key])
			}
		}
		buf = binary.AppendUvarint(buf, uint64(len(e.Payload)))
		h.Write(buf)
		h.Write(e.Payload)
		buf = buf[:0]
	}
	h.Write(buf)
	return h.Sum(nil)
}

// bytes is how long what the attempt's events carry is together.
func (a *attempt) bytes() int {
	n := 0
	for i := range a.rows {
		n += a.rows[i].Size()
	}
	return n
}
