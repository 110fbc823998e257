package inbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/outbox"
)

// DeadLetter is an event that a consumer failed at too often, or permanently.
type DeadLetter struct {
	// Key is what Retry and Discard take: the event's id, or the consumer's business key.
	Key string
	// Event is the event as it was delivered the last time.
	Event outbox.Event
	// Unreadable says why the stored event can't be read, by this version at least; Event is then worth nothing. Retry refuses such
	// a dead letter, and Discard takes it.
	Unreadable error
	// Attempts is how often it was tried.
	Attempts int
	// Err is the error of the last attempt, at most 1,000 bytes of it.
	Err string
	// At is when that was, by the database's clock.
	At time.Time
}

// maxError is how much of an error's text is kept.
const maxError = 1000

// count records a failed attempt, apart from the transaction that was rolled back. It returns what the delivery is answered
// with: cause, or nothing more to do if the event became a dead letter.
func (t *Table[Tx]) count(ctx context.Context, d *delivery, cause error) (Result, error) {
	cause = t.explain(ctx, cause)
	if errors.Is(ctx.Err(), context.Canceled) {
		return Result{}, fmt.Errorf("inbox: %v: %w", d, cause) // the consumer is stopping, which isn't the event's fault
	}
	event, err := json.Marshal(d.event)
	if err != nil {
		return Result{}, fmt.Errorf("inbox: %v: %w (and the attempt wasn't counted: %w)", d, cause, err)
	}
	limit := t.cfg.MaxAttempts
	if Permanent(cause) {
		limit = 1
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	var state string
	var attempts int
	err = t.retry(ctx, maxRuns, func() error {
		return t.db.querier().QueryRow(ctx, t.sql.fail, append(d.recorded(), event, errorText(cause), limit)...).Scan(&state, &attempts)
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		// Another delivery has handled it meanwhile; the next one will be told.
		return Result{}, fmt.Errorf("inbox: %v: %w", d, cause)
	case err != nil:
		return Result{}, fmt.Errorf("inbox: %v: %w (and the attempt wasn't counted: %w)", d, cause, err)
	case state == dead:
		t.cfg.Logger.ErrorContext(ctx, "event became a dead letter", d.attrs("attempts", attempts, "error", cause)...)
		return Result{Outcome: DeadLettered, First: d.event.ID}, nil
	}
	t.cfg.Logger.WarnContext(ctx, "event failed", d.attrs("attempts", attempts, "of", t.cfg.MaxAttempts, "error", cause)...)
	return Result{}, fmt.Errorf("inbox: %v: attempt %d: %w", d, attempts, cause)
}

func errorText(err error) string {
	text := strings.ReplaceAll(err.Error(), "\x00", "")
	return strings.ToValidUTF8(text[:min(len(text), maxError)], "")
}

// DeadLetters returns the consumer's dead letters, those of the longest standing first, at most limit.
func (t *Table[Tx]) DeadLetters(ctx context.Context, limit int) ([]DeadLetter, error) {
	if limit < 0 || limit > math.MaxInt32 {
		return nil, fmt.Errorf("%w: dead letters: limit is %d", ErrConfig, limit)
	}
	consumer, err := t.consumer(ctx)
	if err != nil {
		return nil, err
	}
	return t.letters(ctx, t.sql.list, consumer, limit)
}

func (t *Table[Tx]) letters(ctx context.Context, query string, args ...any) ([]DeadLetter, error) {
	rows, err := t.db.querier().Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("inbox: consumer %s: read dead letters: %w", t.cfg.Consumer, t.explain(ctx, err))
	}
	defer rows.Close()
	var letters []DeadLetter
	for rows.Next() {
		var l DeadLetter
		var event []byte
		var at any
		if err = rows.Scan(&l.Key, &event, &l.Err, &l.Attempts, &at); err == nil {
			l.Unreadable = json.Unmarshal(event, &l.Event)
			l.At, err = instant(at)
		}
		if err != nil {
			return nil, fmt.Errorf("inbox: consumer %s: read dead letter %q: %w", t.cfg.Consumer, l.Key, err)
		}
		letters = append(letters, l)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("inbox: consumer %s: read dead letters: %w", t.cfg.Consumer, err)
	}
	return letters, nil
}

// instant is a time as PostgreSQL's and SQLite's drivers give it.
func instant(v any) (time.Time, error) {
	switch v := v.(type) {
	case time.Time:
		return v, nil
	case []byte:
		return time.Parse(time.RFC3339Nano, string(v))
	case string:
		return time.Parse(time.RFC3339Nano, v)
	}
	return time.Time{}, fmt.Errorf("%T is no time", v)
}

// Retry handles a dead letter again. It stays one, with one attempt more, until that succeeds: the error is then nil and the
// outcome Applied. It returns ErrNotFound if there is no dead letter of this key.
func (t *Table[Tx]) Retry(ctx context.Context, key string, fn TxFunc[Tx]) (Result, error) {
	consumer, err := t.deadBy(ctx, key)
	if err != nil {
		return Result{}, err
	}
	letters, err := t.letters(ctx, t.sql.one, consumer, key)
	if err == nil && len(letters) == 0 {
		err = fmt.Errorf("%w: consumer %s: key %q", ErrNotFound, consumer, key)
	}
	if err != nil {
		return Result{}, err
	}
	event := letters[0].Event
	if why := letters[0].Unreadable; why != nil {
		return Result{}, fmt.Errorf("inbox: consumer %s: the stored event of dead letter %q can't be read: %w", consumer, key, why)
	}
	d := &delivery{event: event, consumer: consumer, key: key, byID: t.cfg.Key == nil, digest: digest(&event), again: true}
	return t.handle(ctx, d, fn.returning())
}

// deadBy is the consumer whose dead letter of a key is meant, or says that there can be none.
func (t *Table[Tx]) deadBy(ctx context.Context, key string) (string, error) {
	consumer, err := t.consumer(ctx)
	if err == nil {
		if err = checkText(key, MaxKey); err != nil {
			err = fmt.Errorf("%w: consumer %s: key %w", ErrNotFound, consumer, err)
		}
	}
	return consumer, err
}

// Discard forgets a dead letter. The event is then new to the consumer, should it be delivered again, with another payload
// too. It returns ErrNotFound if there is no dead letter of this key.
func (t *Table[Tx]) Discard(ctx context.Context, key string) error {
	consumer, err := t.deadBy(ctx, key)
	if err != nil {
		return err
	}
	tag, err := t.db.querier().Exec(ctx, t.sql.drop, consumer, key)
	if err != nil {
		return fmt.Errorf("inbox: consumer %s: discard %q: %w", consumer, key, t.explain(ctx, err))
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("%w: consumer %s: key %q", ErrNotFound, consumer, key)
	}
	return nil
}
