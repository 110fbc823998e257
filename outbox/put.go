package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
// 16 MiB, more take one for each thousand; events that are left out take one or two further statements.
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
	named := slices.ContainsFunc(events, func(e Event) bool { return e.ID != uuid.Nil })
	events, err := w.Prepare(ctx, events)
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(events))
	todo := results
	for chunk := range sqlplan.Chunks(rows(events)) {
		its, here := events[len(results)-len(todo):][:len(chunk)], todo[:len(chunk)]
		todo = todo[len(chunk):]
		if err := w.insert(ctx, tx, chunk, named, here); err != nil {
			return nil, fmt.Errorf("outbox: put: %w", err)
		}
		if err := w.explain(ctx, tx, its, named, here); err != nil {
			return nil, fmt.Errorf("outbox: put: %w", err)
		}
	}
	return results, nil
}

// explain says what is in the way of events that aren't known to have gone in. Where nothing is any more they are inserted once
// more, and what isn't there even so is refused.
func (w Writer) explain(ctx context.Context, tx endstate.Tx, events []Event, named bool, results []Result) error {
	var left []int
	var those []Event
	for i, r := range results {
		if !r.Inserted {
			left, those = append(left, i), append(those, events[i])
		}
	}
	if len(left) == 0 {
		return nil
	}
	holders, err := w.Holders(ctx, tx, those)
	if err != nil {
		return err
	}
	for n, i := range left {
		r, e := &results[i], those[n:n+1]
		if r.Inserted = !named && holders[n] == r.ID; r.Inserted {
			continue
		}
		if holders[n] == uuid.Nil {
			if err := w.insert(ctx, tx, rows(e), true, results[i:i+1]); err != nil {
				return err
			}
			if r.Inserted {
				continue
			}
			again, err := w.Holders(ctx, tx, e)
			if err != nil {
				return err
			}
			if holders[n] = again[0]; again[0] == uuid.Nil {
				return fmt.Errorf("%w: event %q of %s %s; look for a BEFORE trigger that returns NULL, or a rule, on table %s", ErrRefused, e[0].Type, e[0].AggregateType, e[0].AggregateID, w.table())
			}
		}
		r.HeldBy = holders[n]
	}
	return nil
}

// insert writes one chunk, and notes in results which events went in. Ids come back only where a caller named some, which may be there
// from before. Otherwise the number of rows tells, and explain if they are too few.
func (w Writer) insert(ctx context.Context, tx endstate.Tx, chunk []sqlplan.Event, named bool, results []Result) error {
	if w.Columns != nil && sqltx.Of(tx) == sqltx.SQLite {
		return fmt.Errorf("%w: Writer.Columns is for PostgreSQL", ErrConfig)
	}
	for i := range chunk {
		results[i].ID = chunk[i].ID
	}
	var query string
	var args []any
	if _, isPgx := tx.(pgx.Tx); isPgx && len(chunk) > 1 {
		query, args = w.sql().Bulk(func(i int) string { return fmt.Sprintf("$%d", i+1) }, ""), sqlplan.Arrays(chunk)
	} else {
		query, args = w.sql().Values(sqltx.Of(tx), chunk)
	}
	query += " ON CONFLICT DO NOTHING"
	if len(chunk) == 1 || !named {
		tag, err := tx.Exec(ctx, query, args...)
		for i := range results {
			results[i].Inserted = err == nil && tag.RowsAffected() == int64(len(chunk))
		}
		return err
	}
	rows, err := tx.Query(ctx, query+" RETURNING CAST("+sqltx.Quote("", w.columns().ID)+" AS text)", args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	inserted := make(map[string]bool, len(chunk))
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		inserted[strings.ToLower(id)] = true // as text a service's table may have it in capitals
	}
	for i := range results {
		results[i].Inserted = inserted[results[i].ID.String()]
	}
	return rows.Err()
}

// Validate says which field of w doesn't make sense.
func (w Writer) Validate() error {
	if w.Schema != "" {
		if err := sqltx.CheckIdent(w.Schema); err != nil {
			return fmt.Errorf("%w: Writer.Schema %w", ErrConfig, err)
		}
	}
	if w.Table != "" {
		if err := sqltx.CheckIdent(w.Table); err != nil {
			return fmt.Errorf("%w: Writer.Table %w", ErrConfig, err)
		}
	}
	if n := len(w.Table); n > maxTable {
		return fmt.Errorf("%w: Writer.Table is %d bytes long, the limit is %d, so that the names of its indexes and companions fit into 63", ErrConfig, n, maxTable)
	}
	if w.MaxPayload < 0 || w.MaxPayload > maxMaxPayload {
		return fmt.Errorf("%w: Writer.MaxPayload is %d; the database takes %d", ErrConfig, w.MaxPayload, maxMaxPayload)
	}
	if w.Columns != nil {
		if w.Headers != nil && w.Columns.Headers == "" {
			return fmt.Errorf("%w: Writer.Headers is set, but Writer.Columns.Headers names no column for what it adds", ErrConfig)
		}
		return w.Columns.validate()
	}
	return nil
}

// maxTable leaves room for "_parked_waiting" in PostgreSQL's 63 bytes, beyond which it cuts names off.
const maxTable = 48

// maxMaxPayload is what every driver and PostgreSQL can send and receive, as text of twice the length too.
const maxMaxPayload = 256 << 20

// companions are what is named after the outbox's table: the relay's tables, and the function that computes partitions.
var companions = []string{"_subscriptions", "_cursors", "_parked", "_relays", "_samples", "_incarnation", "_audit", "_partition"}

// Name is the table's name, without its schema.
func (w Writer) Name() string {
	if w.Table == "" {
		return DefaultTable
	}
	return w.Table
}

func (w Writer) table() string { return sqltx.Quote(w.Schema, w.Name()) }

// sql writes the statements that insert into the table.
func (w Writer) sql() sqlplan.Outbox {
	return sqlplan.Outbox{Table: w.table(), Columns: (*sqlplan.Columns)(w.Columns)}
}

// columns are where fields are that tell events apart.
func (w Writer) columns() *Columns {
	if w.Columns == nil {
		return &Columns{ID: "id", DedupKey: "dedup_key"}
	}
	return w.Columns
}

// rows are prepared events as statements take them.
func rows(events []Event) []sqlplan.Event {
	list := make([]sqlplan.Event, len(events))
	for i, e := range events {
		list[i] = sqlplan.Event(e)
	}
	return list
}

// Holders returns, for each event, the id of the event in the table that holds its dedup key or its id; uuid.Nil where
// there is none. On a service's own table the aggregate and the type may be what is unique.
func (w Writer) Holders(ctx context.Context, q endstate.Querier, events []Event) ([]uuid.UUID, error) {
	c := w.columns()
	var args []any
	params := func(of func(e *Event) []string) (list []string) {
		for i := range events {
			var row []string
			for _, value := range of(&events[i]) {
				if args = append(args, value); sqltx.Of(q) == sqltx.SQLite {
					row = append(row, "?")
				} else { // the types are left to the server, which takes them from the columns, so that an index over these serves
					row = append(row, fmt.Sprintf("$%d", len(args)))
				}
			}
			if len(row) > 0 {
				list = append(list, "("+strings.Join(row, ", ")+")")
			}
		}
		return list
	}
	text := func(column string) string { // empty where there is none
		if column == "" {
			return "''"
		}
		return "coalesce(CAST(" + sqltx.Quote("", column) + " AS text), '')"
	}
	where := sqltx.Quote("", c.ID) + " IN (" + strings.Join(params(func(e *Event) []string { return []string{e.ID.String()} }), ", ") + ")"
	if c.AggregateID != "" {
		where += fmt.Sprintf(" OR (%s, %s) IN (%s)", sqltx.Quote("", c.AggregateID), sqltx.Quote("", c.Type), strings.Join(params(func(e *Event) []string { return []string{e.AggregateID, e.Type} }), ", "))
	}
	if c.DedupKey != "" {
		keys := params(func(e *Event) []string {
			if e.DedupKey == "" {
				return nil
			}
			return []string{e.DedupKey}
		})
		if len(keys) > 0 {
			where += fmt.Sprintf(" OR %s IN (%s)", sqltx.Quote("", c.DedupKey), strings.Join(keys, ", "))
		}
	}
	rows, err := q.Query(ctx, fmt.Sprintf("SELECT %s, %s, %s, %s, %s FROM %s WHERE %s", text(c.ID), text(c.AggregateType), text(c.AggregateID), text(c.Type), text(c.DedupKey), w.table(), where), args...)
	if err != nil {
		return nil, fmt.Errorf("outbox: look up earlier events: %w", err)
	}
	defer rows.Close()
	type aggregate struct{ kind, id, eventType string }
	byID, byKey, byAggregate := map[string]string{}, map[string]string{}, map[aggregate]string{}
	for rows.Next() {
		var id, key string
		var a aggregate
		if err := rows.Scan(&id, &a.kind, &a.id, &a.eventType, &key); err != nil {
			return nil, fmt.Errorf("outbox: look up earlier events: %w", err)
		}
		byID[id], byKey[key], byAggregate[a] = id, id, id
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("outbox: look up earlier events: %w", err)
	}
	holders := make([]uuid.UUID, len(events))
	for i, e := range events {
		a := aggregate{id: e.AggregateID, eventType: e.Type}
		if c.AggregateType != "" {
			a.kind = e.AggregateType
		}
		holder := byAggregate[a]
		if id := byKey[e.DedupKey]; id != "" && e.DedupKey != "" {
			holder = id
		}
		if byID[e.ID.String()] != "" && (w.Columns != nil || holder == "") {
			holder = e.ID.String() // it went in: so a winner whose COMMIT was lost knows that it won
		}
		holders[i], _ = uuid.Parse(holder) // an older event's id may be anything
	}
	return holders, nil
}

// Taken reports whether err says that an event's dedup key or id is held by another event.
func Taken(err error) bool { return sqltx.Unique(err) }
