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
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// attempt is the state of one call. Its token and the ids of its events tell, in the database, whether it won.
type attempt struct {
	sqlplan.Call
	ref    guard.Ref
	shown  string             // the key as events have it
	events []outbox.Event     // the outcome's, as they are inserted: with their defaults, and what Outbox.Headers adds
	one    [1]*sqlplan.Event  // room for Call.Events, where there is one
	size   int                // about how many bytes these carry
	at     pgtype.Timestamptz // when it settled the aggregate, if a ledger says so
	xid    string
	number int
	look   bool // read the record first
	start  time.Time
	lost   error // of a COMMIT for many that got no answer, with which it may have been settled
}

// newAttempt makes an attempt, in the room there is for it, if any.
func (f *core) newAttempt(a *attempt, ref guard.Ref, trigger Trigger) (*attempt, error) {
	if a == nil {
		one := new(struct {
			attempt
			args [16]any
		})
		a, one.Room = &one.attempt, one.args[:0]
	}
	a.ref, a.start = ref, time.Now()
	var err error
	if a.shown, err = f.cfg.guards.Open(&a.Call, ref.Key); err != nil {
		return nil, fmt.Errorf("finalize: %s: key: %w", ref.Aggregate, err)
	}
	a.Aggregate, a.Trigger, a.Token = ref.Aggregate, string(trigger), f.ids.New()
	return a, nil
}

// checkName says why s can't be the name of an aggregate type or a trigger.
func checkName(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	if len(s) > outbox.MaxName {
		return fmt.Errorf("is %d bytes long, the limit is %d", len(s), outbox.MaxName)
	}
	return sqltx.CheckText(s)
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

// prepare puts an outcome into the attempt, as w writes its events, or says what is wrong with it.
func (f *core) prepare(ctx context.Context, w *outbox.Writer, a *attempt, out Outcome) error {
	if err := f.checkState(a.ref, out.State); err != nil {
		return err
	}
	a.State, a.size = out.State, 0
	var one [1]outbox.Event
	asked := append(one[:0], out.Events...)
	for i := range asked {
		e := &asked[i]
		if e.ID == uuid.Nil {
			e.ID = f.ids.New()
		}
		if e.AggregateType == "" {
			e.AggregateType = a.ref.Aggregate
		}
		if e.AggregateID == "" {
			e.AggregateID = a.shown
		}
		if e.DedupKey == "" {
			e.DedupKey = dedupKey(a, e.Type)
		}
	}
	var err error
	if a.events, err = w.Prepare(ctx, asked); err != nil {
		return fmt.Errorf("finalize: %v: Outcome.Events: %w", a.ref, err)
	}
	a.Events = a.one[:0]
	for i := range a.events {
		e := (*sqlplan.Event)(&a.events[i])
		a.Events = append(a.Events, e)
		a.size += e.Size()
	}
	if f.digests {
		a.Digest = digest(a.State, a.events, asked)
	}
	return nil
}

func (a *attempt) transition() guard.Transition {
	return guard.Transition{State: a.State, Trigger: a.Trigger, Token: a.Token, Digest: a.Digest}
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

// attempt runs one transaction. Without fn the outcome is prepared already.
func (f *Finalizer[Tx]) attempt(ctx context.Context, a *attempt, claim func() (session[Tx], guard.Record, error), fn Func[Tx]) (Receipt, error) {
	if ctx.Err() != nil {
		return Receipt{}, context.Cause(ctx) // the claim might be answered before it is told
	}
	s, rec, err := claim()
	if err != nil {
		return Receipt{}, err
	}
	if rec.Final {
		return receiptOf(rec, false), nil
	}
	defer s.rollback(ctx) // also on a panic or Goexit in fn
	a.xid = rec.XID
	if fn != nil {
		out, err := f.call(ctx, a, s.tx(), fn)
		if err != nil {
			return Receipt{}, s.stale(ctx, a, err)
		}
		if err := f.prepare(ctx, &f.cfg.Outbox, a, out); err != nil {
			return Receipt{}, err
		}
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
		return f.resolve(ctx, a, f.look, err)
	}
	return Receipt{}, withCause(ctx, err)
}

// undoing returns the context to roll back on. It is detached from the caller's: a cancelled caller must not leak a
// transaction.
func undoing(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
}

// claimed runs a session's claim, and ends the session unless that holds the open aggregate. It may run code of the user's, which
// panics or exits.
func claimed(ctx context.Context, s ender, claim func(context.Context, *attempt) (guard.Record, error), a *attempt) (rec guard.Record, err error) {
	holds := false
	defer func() {
		if !holds {
			s.rollback(ctx)
		}
	}()
	rec, err = claim(ctx, a)
	err = s.stale(ctx, a, withCause(ctx, err))
	holds = err == nil && !rec.Final
	return rec, err
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
	return fmt.Errorf("no event is in the way: it was deleted meanwhile, or the key is that of two rows, or the unique index is one of your own, on the outbox or in a trigger's table: %w", cause)
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

func (f *core) backoff() backoff.BackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 2*time.Millisecond, 250*time.Millisecond
	return b
}

// digest is the SHA-256 of an outcome; every field goes in with its length, so that no two outcomes have one input. The headers are
// those that were asked for.
func digest(state string, events, asked []outbox.Event) []byte {
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
		headers := asked[i].Headers
		buf = binary.AppendUvarint(buf, uint64(len(headers)))
		if len(headers) > 0 {
			for _, key := range slices.Sorted(maps.Keys(headers)) {
				add(key)
				add(headers[key])
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

// rows are the events as they are inserted.
func (a *attempt) rows() []sqlplan.Event {
	rows := make([]sqlplan.Event, len(a.events))
	for i, e := range a.events {
		rows[i] = sqlplan.Event(e)
	}
	return rows
}
