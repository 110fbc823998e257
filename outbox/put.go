package outbox

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Errors that callers decide on. They arrive wrapped.
var (
	// ErrInvalidEvent is returned for an event that can't be stored; the message names the field.
	ErrInvalidEvent = errors.New("outbox: invalid event")

	// ErrDuplicate is returned when two events of one call have one dedup key or one id.
	ErrDuplicate = errors.New("outbox: two events of one call share a key")

	// ErrConfig is returned for a Writer whose fields don't make sense.
	ErrConfig = errors.New("outbox: invalid configuration")

	// ErrRefused is returned when an event that was to be inserted isn't there, though no other one is in its way: a BEFORE
	// trigger returned NULL, or a rule replaced the statement.
	ErrRefused = errors.New("outbox: the database refused an event")

	// ErrSchema is returned when the database lacks a table, column or index that the outbox needs.
	ErrSchema = errors.New("outbox: schema is incomplete")
)

// DefaultTable is the outbox's table unless Writer.Table says otherwise.
const DefaultTable = "endstate_outbox"

// Writer writes events into an outbox table. The zero Writer is ready for use after Migrate, and a Writer is safe for
// concurrent use as long as nobody changes it.
type Writer struct {
	Schema     string // the table's schema; empty: the connection's search path
	Table      string // default DefaultTable
	MaxPayload int    // the longest payload in bytes; default DefaultMaxPayload, at most 256 MiB
	// Headers adds headers to the events of a Put or a finalization, from the context that this was called with: a trace's,
	// for instance. It is called once for all events of a call, and again when a transaction is run again. An event's own
	// headers win, whatever the case of their names. What it adds is no part of what was asked for: finalize's digests, and
	// so Receipt.Differs, leave it out. It must be safe for concurrent use.
	Headers func(ctx context.Context) map[string]string
	// Columns is for a table of the service's own. Nil: the library's, which Migrate makes.
	Columns *Columns
}

// Result tells what became of one event.
type Result struct {
	// ID is the event's id, also where Put made it.
	ID uuid.UUID
	// Inserted reports whether it went in.
	Inserted bool
	// HeldBy is the id of the earlier event that holds the dedup key (or the id) of one that didn't go in.
	HeldBy uuid.UUID
}

// Put writes events with the default Writer.
func Put(ctx context.Context, tx endstate.Tx, events ...Event) ([]Result, error) {
	return Writer{}.Put(ctx, tx, events...)
}

// Put writes events into the outbox as part of tx and returns a result for each, in their order. An event whose dedup key
// or id is taken is left out, and its result says by whom; the transaction stays usable, and no row is written for it (on
// PostgreSQL its number in seq is skipped, and the transaction gets an id).
// All events are validated before anything is sent. A thousand events take one statement, or fewer, if they carry more than
// 16 MiB, more take one for each thousand; events that are left out take one further statement.
//
// Put waits for a transaction that has written the same dedup key and not ended yet. Under REPEATABLE READ and SERIALIZABLE
// PostgreSQL then raises 40001, which is returned, as is every database error: such an error has aborted the transaction.
// An event that isn't there afterwards though none was in its way is ErrRefused.
func (w Writer) Put(ctx context.Context, tx endstate.Tx, events ...Event) ([]Result, error) {
	if err := w.Validate(); err != nil {
		return nil, err
	}
	if tx == nil {
		return nil, errors.New("outbox: Put: tx is nil")
	}
	events, err := w.Prepare(ctx, events)
	if err != nil {
		return nil, err
	}
	results := make([]Result, 0, len(events))
	for chunk := range sqlplan.Chunks(rows(events)) {
		inserted, err := w.insert(ctx, tx, chunk)
		if err != nil {
			return nil, fmt.Errorf("outbox: put: %w", err)
		}
		var left []Event
		for _, e := range events[len(results):][:len(chunk)] {
			results = append(results, Result{ID: e.ID, Inserted: inserted[e.ID]})
			if !inserted[e.ID] {
				left = append(left, e)
			}
		}
		if len(left) == 0 {
			continue
		}
		holders, err := w.Holders(ctx, tx, left)
		if err != nil {
			return nil, err
		}
		if err := w.insertAgain(ctx, tx, left, holders, inserted); err != nil {
			return nil, fmt.Errorf("outbox: put: %w", err)
		}
		for i := len(results) - len(chunk); i < len(results); i++ {
			if results[i].Inserted {
				continue
			}
			if results[i].Inserted = inserted[results[i].ID]; !results[i].Inserted {
				results[i].HeldBy = holders[0]
			}
			holders = holders[1:]
		}
	}
	return results, nil
}

// insertAgain inserts what was left out though no event is in its way any more, and refuses what then isn't there either.
func (w Writer) insertAgain(ctx context.Context, tx endstate.Tx, left []Event, holders []uuid.UUID, inserted map[uuid.UUID]bool) error {
	for i, e := range left {
		if holders[i] != uuid.Nil {
			continue
		}
		again, err := w.insert(ctx, tx, rows(left[i:i+1]))
		if err != nil {
			return err
		}
		if inserted[e.ID] = again[e.ID]; inserted[e.ID] {
			continue
		}
		held, err := w.Holders(ctx, tx, left[i:i+1])
		if err != nil {
			return err
		}
		if holders[i] = held[0]; held[0] == uuid.Nil {
			return fmt.Errorf("%w: event %q of %s %s; look for a BEFORE trigger that returns NULL, or a rule, on table %s", ErrRefused, e.Type, e.AggregateType, e.AggregateID, w.table())
		}
	}
	return nil
}

// insert writes one chunk and returns the ids that went in.
func (w Writer) insert(ctx context.Context, tx endstate.Tx, chunk []sqlplan.Event) (map[uuid.UUID]bool, error) {
	if w.Columns != nil && sqltx.Of(tx) == sqltx.SQLite {
		return nil, fmt.Errorf("%w: Writer.Columns is for PostgreSQL", ErrConfig)
	}
	insert := func(values string) string {
		return values + " ON CONFLICT DO NOTHING RETURNING CAST(" + w.id() + " AS text)"
	}
	_, isPgx := tx.(pgx.Tx)
	if isPgx && len(chunk) > 1 {
		return w.insertBulk(ctx, tx, chunk, insert)
	}
	query, args := w.sql().Values(sqltx.Of(tx), chunk)
	if isPgx {
		// One event needs no names of those that went in, and half the time without.
		tag, err := tx.Exec(ctx, query+" ON CONFLICT DO NOTHING", args...)
		return map[uuid.UUID]bool{chunk[0].ID: tag.RowsAffected() == 1}, err
	}
	rows, err := tx.Query(ctx, insert(query), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	inserted := make(map[uuid.UUID]bool, len(chunk))
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		id, err := uuid.Parse(text)
		if err != nil {
			return nil, err
		}
		inserted[id] = true
	}
	return inserted, rows.Err()
}

// insertBulk is insert on pgx. The server names the ids that went in only if some didn't.
func (w Writer) insertBulk(ctx context.Context, tx endstate.Tx, chunk []sqlplan.Event, insert func(values string) string) (map[uuid.UUID]bool, error) {
	values := w.sql().Bulk(func(i int) string { return fmt.Sprintf("$%d", i+1) }, "")
	query := fmt.Sprintf(`WITH endstate_put (id) AS (%s)
SELECT (SELECT count(*) FROM endstate_put),
	(SELECT string_agg(id, ' ') FROM endstate_put WHERE (SELECT count(*) FROM endstate_put) < cardinality($1::text[]))`, insert(values))
	var count int
	var some *string
	if err := tx.QueryRow(ctx, query, sqlplan.Arrays(chunk)...).Scan(&count, &some); err != nil {
		return nil, err
	}
	inserted := make(map[uuid.UUID]bool, count)
	if count == len(chunk) {
		for i := range chunk {
			inserted[chunk[i].ID] = true
		}
	} else if some != nil {
		for text := range strings.FieldsSeq(*some) {
			id, err := uuid.Parse(text)
			if err != nil {
				return nil, err
			}
			inserted[id] = true
		}
	}
	return inserted, nil
}
