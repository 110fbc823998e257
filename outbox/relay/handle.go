package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// errRefused rolls back what was handled of another's partition.
var errRefused = errors.New("relay: the move is refused, the partition is another's")

// fault is why a transaction of a consumer was rolled back, where the database isn't to blame.
type fault struct {
	row *row // nil: one of them
	err error
}

// maxConflicts is how often a transaction is tried again that a concurrent one broke off, before it is made smaller, or put off.
const maxConflicts = 5

// transact runs, in one transaction, read, the handler for each row that it returns, while there is time, and write, and commits
// if that wrote anything. Rows that were handled are sent, if it is committed. An error is the database's: whether a COMMIT without an answer took effect, the next reading tells, since
// the cursor's token, or the parked row, is of the same transaction.
func (t *term) transact(run context.Context, read func(ctx context.Context, s *store) ([]*row, error), write func(ctx context.Context, s *store) (bool, error)) (committed bool, f *fault, err error) {
	ctx := t.lease.ctx // a shutdown lets the batch finish
	beginning, begun := t.store.bounded(ctx)
	w, err := t.begin(beginning, t.store.database)
	begun()
	if err != nil {
		return conflict(fmt.Errorf("begin: %w", err))
	}
	var handled []*row
	defer func() {
		for _, r := range handled {
			if !committed {
				r.state = todo
			}
		}
		w.reclaim()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		w.drop(ctx)
	}()
	s := t.store.in(w.Tx)
	if !s.sqlite() {
		if err := s.limit(ctx, t.cfg.LeaseTTL/2); err != nil {
			return false, nil, err
		}
	}
	rows, err := read(ctx, s)
	if err != nil {
		return conflict(err)
	}
	if t.store.sqlite() && len(rows) > 0 {
		// The one writer's lock, before a handler finds that there was another one since the reading.
		if _, err := s.Exec(ctx, fmt.Sprintf("UPDATE %s SET token = token WHERE 1 = 0", s.cursors)); err != nil {
			return conflict(err)
		}
	}
	start := time.Now()
	for i, r := range rows {
		if i > 0 && (run.Err() != nil || time.Since(start) > t.cfg.pass) {
			break
		}
		if f, err := t.handleOne(ctx, w, r); f != nil || err != nil {
			return false, f, err
		}
		r.state = sent
		handled = append(handled, r)
	}
	var only *row
	if len(handled) == 1 {
		only = handled[0]
	}
	if t.store.pool == nil && len(handled) > 0 {
		if err := w.look(ctx); errors.Is(err, errCut) {
			t.wary = true
			return false, nil, err
		} else if err != nil {
			return false, &fault{only, err}, nil
		}
	}
	w.reclaim()
	if t.lease.lost() {
		return false, nil, errLeaseLost
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	switch wrote, err := write(ctx, s); {
	case errors.Is(err, errRefused):
		t.log.WarnContext(ctx, "outbox relay: moves refused, the partitions are another's; nothing was done", "events", len(handled))
		return false, nil, nil
	case err != nil:
		return conflict(err)
	case !wrote:
		return false, nil, nil
	}
	switch err := w.commit(ctx); {
	case err == nil:
		t.conflicts = 0
		for _, r := range handled {
			if r.seq == t.cutBy {
				t.cuts = 0
			}
			t.count(r)
		}
		t.wary = t.cuts > 0
		return true, nil, nil
	case sqltx.Definite(err) || sqltx.RolledBack(err):
		return false, &fault{only, err}, nil
	default:
		return false, nil, fmt.Errorf("commit: %w", err)
	}
}

// conflict has an error be a fault if it is what a concurrent transaction did to a statement of the consumer's own.
func conflict(err error) (bool, *fault, error) {
	if sqltx.Conflicted(err) {
		return false, &fault{err: err}, nil
	}
	return false, nil, err
}

// handleOne calls the handler for one event.
func (t *term) handleOne(ctx context.Context, w *work, r *row) (*fault, error) {
	errs, _ := t.call(func(ctx context.Context, events []outbox.Event) []error {
		if err := w.handle(ctx, events[0]); err != nil {
			return []error{err}
		}
		return nil
	}, []outbox.Event{r.Event})
	if t.lease.lost() {
		return nil, errLeaseLost
	}
	if errs != nil && (errors.Is(errs[0], errPublishTimeout) || errors.Is(errs[0], context.DeadlineExceeded)) {
		return &fault{r, errs[0]}, nil // it is no wonder if the connection is gone
	}
	if errs == nil && t.store.pool == nil && !t.wary {
		return nil, nil // a look is a trip there
	}
	state := w.look(ctx)
	switch {
	case errors.Is(state, errCut):
		// The database is away; but an event with which it always goes away is to blame.
		if t.cutBy != r.seq {
			t.cuts, t.cutBy = 0, r.seq
		}
		if t.cuts++; t.cuts < 3 {
			return nil, errors.Join(append(errs, state)...)
		}
		return &fault{r, errors.Join(append(errs, state)...)}, nil
	case errs != nil:
		return &fault{r, errs[0]}, nil
	case state != nil:
		return &fault{r, state}, nil
	}
	return nil, nil
}

// consume is the pass of a consumer: it reads, handles and moves in one transaction, or, where that fails, in one for each event.
func (t *term) consume(ctx context.Context) (rows int, err error) {
	limit := t.limit()
	if err := t.noteLimit(ctx, limit); err != nil {
		return 0, err
	}
	var b *batch
	if t.gauge.failures > 0 || t.conflicts >= maxConflicts {
		if b, err = t.read(ctx, t.store, t.turns()[0], limit); b == nil || err != nil {
			return 1, err
		}
		t.look(b)
		if len(b.in(todo)) > 0 {
			return t.handleSingly(ctx, b, nil)
		}
	}
	_, f, err := t.transact(ctx, func(_ context.Context, s *store) (list []*row, err error) {
		if b, err = t.read(ctx, s, t.turns()[0], limit); b == nil || err != nil {
			return nil, err
		}
		t.look(b)
		return b.in(todo), nil
	}, func(ctx context.Context, s *store) (bool, error) {
		if b == nil {
			return false, nil
		}
		for p, rows := range b.parts {
			if i := slices.IndexFunc(rows, func(r *row) bool { return r.state == todo }); i >= 0 {
				b.cut(p, i)
			}
		}
		return t.moveIn(ctx, s, b)
	})
	switch {
	case err != nil:
		return 0, err
	case f == nil && b == nil:
		return 1, nil // it was tried smaller
	case f == nil:
		if n := len(b.in(sent)); n > 0 {
			t.took(n)
		}
		return len(b.rows), nil
	case sqltx.Conflicted(f.err):
		t.conflicts++
		t.gauge.until = time.Now().Add(backoff(10*time.Millisecond, time.Second, t.conflicts))
		return 0, nil
	}
	t.log.WarnContext(ctx, "outbox relay: a batch failed, its events get a transaction each", "events", len(b.in(todo)), "error", lastError(f.err))
	return t.handleSingly(ctx, b, f.row)
}

// moveIn moves the cursors of a batch in a transaction, all of them or none.
func (t *term) moveIn(ctx context.Context, s *store, b *batch) (bool, error) {
	_, moves, parks := b.moves(nil, false)
	if len(moves) == 0 {
		return false, nil
	}
	moved, err := s.move(ctx, moves, b.cursors[0].Now, b.cursors[0].Incarnation, parks)
	if err == nil && len(moved) < len(moves) {
		err = errRefused
	}
	if len(parks) > 0 {
		t.waiting, t.nextDue = true, time.Now()
	}
	return err == nil, err
}

// cut leaves a partition its first n rows, as if no more had been read.
func (b *batch) cut(partition, n int) {
	rows := b.parts[partition]
	if slices.ContainsFunc(rows[n:], func(r *row) bool { return r.kind == lateRow }) {
		b.pieces[partition] = true
	}
	b.parts[partition] = rows[:n]
}
