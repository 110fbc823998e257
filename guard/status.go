package guard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Status guards a status column in a table of the service's own. An aggregate is one row; it is open while the column is
// NULL or holds a state that isn't terminal. Fill in the fields and use it as a value; a Status is safe for concurrent use
// as long as nobody changes it.
//
// The column may be text, varchar, char or an enum, or an integer or a boolean, whose states are called as PostgreSQL writes them ("3",
// "true"). The key columns may be of any type that there are keys for, a domain over one, or citext. Check names what can't be
// either. A key of another kind than its column (text for a uuid column, say) is an error on PostgreSQL, so that one aggregate can't be known by two keys. SQLite finds no row for an integer in a text column or the
// reverse, but it has no uuid type: there use either Text or UUID for a column, not both, since to a ledger they are two keys.
// The same goes for key columns whose collation takes two spellings for equal. Whatever the key, the row's own status lets only
// one call win.
//
// The table may be partitioned, by time for instance, with the key columns in the order of its primary key. It may be a view that
// PostgreSQL can update by itself, also where a trigger does it instead. Check refuses what can't keep the promise, such as a table
// from which others inherit: docs/compatibility.md has a list.
type Status struct {
	Schema string // the table's schema; empty: the connection's search path
	Table  string // the table; required
	Key    string // the key column, for keys of one part
	// Keys are the key columns of a composite key, in the order of guard.Composite's parts. Set either Key or Keys.
	Keys     []string
	Column   string // the status column; required
	Terminal States // which states are terminal; required
	// Touched is the column that tells when a row was last worked on, a timestamptz (on SQLite text that it knows as a time),
	// for Due; empty: Due can't be used. The service sets it, Set may too.
	Touched string
	// Set names further columns that the same UPDATE sets, such as {"completed_at": guard.Now, "completed_by": guard.By}.
	// A value is Now, NowUTC, By, or anything that the driver takes as an argument.
	Set map[string]any
}

// Value is a value for Status.Set that the library fills in.
type Value int

// The values that the library fills in.
const (
	// Now is the database's clock, for a timestamptz column; on SQLite it is text in RFC 3339.
	Now Value = iota + 1
	// By is the trigger's name.
	By
	// NowUTC is the database's clock in UTC, for a timestamp column, which has no time zone: there Now would be the session's
	// time of day. On SQLite it is what Now is.
	NowUTC
)

var (
	_ Guard     = Status{}
	_ Reader    = Status{}
	_ Validator = Status{}
	_ Checker   = Status{}
)

// Validate says which field doesn't make sense. Any name that PostgreSQL can hold is allowed, since all are quoted.
func (s Status) Validate() error {
	fail := func(field string, err error) error { return fmt.Errorf("%w: Status.%s %w", ErrConfig, field, err) }
	if s.Schema != "" {
		if err := sqltx.CheckIdent(s.Schema); err != nil {
			return fail("Schema", err)
		}
	}
	if err := sqltx.CheckIdent(s.Table); err != nil {
		return fail("Table", err)
	}
	if (s.Key == "") == (len(s.Keys) == 0) {
		return fail("Key", errors.New("and Keys: set one of them"))
	}
	for i, column := range s.keys() {
		if err := sqltx.CheckIdent(column); err != nil {
			return fail("Key", err)
		}
		if slices.Contains(s.keys()[:i], column) {
			return fail("Key", fmt.Errorf("names %q twice", column))
		}
	}
	if err := sqltx.CheckIdent(s.Column); err != nil {
		return fail("Column", err)
	}
	if slices.Contains(s.keys(), s.Column) {
		return fail("Column", errors.New("is a key column"))
	}
	if err := s.Terminal.validate(); err != nil {
		return fail("Terminal", err)
	}
	if s.Touched != "" {
		if err := sqltx.CheckIdent(s.Touched); err != nil {
			return fail("Touched", err)
		}
	}
	for column := range s.Set {
		if err := sqltx.CheckIdent(column); err != nil {
			return fail("Set", err)
		}
		if column == s.Column || slices.Contains(s.keys(), column) {
			return fail("Set", fmt.Errorf("names %q, which is the status or a key column", column))
		}
	}
	return nil
}

func (s Status) keys() []string {
	if s.Key != "" {
		return []string{s.Key}
	}
	return s.Keys
}

func (s Status) name() string { return "status " + s.table() }

func (s Status) table() string { return sqltx.Quote(s.Schema, s.Table) }

func (s Status) column() string { return sqltx.Quote("", s.Column) }

// where is the condition that finds key's row, and its arguments.
func (s Status) where(d sqltx.Dialect, key Key) (string, []any, error) {
	if err := s.Fits(key); err != nil {
		return "", nil, err
	}
	var terms []string
	for kind := range key.parts() {
		i := len(terms)
		column := sqltx.Quote("", s.keys()[i])
		if d == sqltx.SQLite {
			terms = append(terms, matchSQLite(kind, column, fmt.Sprintf("?%d", i+1)))
		} else {
			terms = append(terms, match(kind, column, fmt.Sprintf("$%d", i+1)))
		}
	}
	return strings.Join(terms, " AND "), key.Args(), nil
}

// Fits says whether key has as many parts as there are key columns.
func (s Status) Fits(key Key) error {
	if key.len() != len(s.keys()) {
		return fmt.Errorf("%w: it has %d parts, %s has the key columns (%s)",
			ErrInvalidKey, key.len(), s.name(), strings.Join(s.keys(), ", "))
	}
	return nil
}

// Read implements Reader.
func (s Status) Read(ctx context.Context, q endstate.Querier, ref Ref) (Record, error) {
	observed, err := s.observe(ctx, q, ref)
	if err != nil {
		return Record{}, err
	}
	return s.record(observed), nil
}

// observe reads the status column; nil is NULL.
func (s Status) observe(ctx context.Context, q endstate.Querier, ref Ref) (*string, error) {
	d := sqltx.Of(q)
	where, args, err := s.where(d, ref.Key)
	if err != nil {
		return nil, err
	}
	var state *string
	err = q.QueryRow(ctx, fmt.Sprintf("SELECT CAST(%s AS text) FROM %s WHERE %s", s.column(), s.table(), where), args...).Scan(&state)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, s.absent()
	}
	return state, err
}

func (s Status) absent() error {
	return fmt.Errorf("%w: there is no such row in %s", ErrNotFound, s.table())
}

func (s Status) record(state *string) Record {
	if state == nil {
		return Record{}
	}
	return Record{Final: s.Terminal.Terminal(*state), State: *state}
}

// Claim implements Guard. It locks an open row with FOR NO KEY UPDATE, which leaves others free to insert rows that
// reference it.
func (s Status) Claim(ctx context.Context, tx endstate.Tx, ref Ref) (Record, error) {
	d := sqltx.Of(tx)
	where, args, err := s.where(d, ref.Key)
	if err != nil {
		return Record{}, err
	}
	if d == sqltx.SQLite {
		if err := writeNothing(ctx, tx, s.table(), s.column()); err != nil {
			return Record{}, err
		}
		return s.Read(ctx, tx, ref)
	}
	lock := fmt.Sprintf(`SELECT pg_current_xact_id()::text FROM %s WHERE %s AND %s::text COLLATE "C" IS NOT DISTINCT FROM $%d::text FOR NO KEY UPDATE`,
		s.table(), where, s.column(), len(args)+1)
	for n := 1; ; n++ {
		observed, err := s.observe(ctx, tx, ref)
		if err != nil {
			return Record{}, err
		}
		rec := s.record(observed)
		if rec.Final {
			return rec, nil
		}
		err = tx.QueryRow(ctx, lock, append(slices.Clip(args), observed)...).Scan(&rec.XID)
		if err == nil {
			return rec, nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return Record{}, err
		}
		// Another transaction changed the row between the two statements: look again. Or row security shows the row and
		// doesn't let it be locked, which would go on forever.
		if n > 1 {
			if secured, err := s.secured(ctx, tx); secured || err != nil {
				return rec, cmp.Or[error](err, &TransitionError{Ref: ref, Found: true, State: rec.State})
			}
		}
	}
}

// secured reports whether row security policies apply to the table for this session: then an open row that can't be locked
// may be one that they show and don't let change. PostgreSQL only.
func (s Status) secured(ctx context.Context, q endstate.Querier) (secured bool, err error) {
	err = q.QueryRow(ctx, "SELECT coalesce(pg_catalog.row_security_active(pg_catalog.to_regclass($1::text)::oid), false)", s.table()).Scan(&secured)
	return secured, err
}

// Settle implements Guard.
func (s Status) Settle(ctx context.Context, tx endstate.Tx, ref Ref, to Transition) (Record, error) {
	if err := s.check(to.State); err != nil {
		return Record{}, err
	}
	d := sqltx.Of(tx)
	where, args, err := s.where(d, ref.Key)
	if err != nil {
		return Record{}, err
	}
	param := func(v any) string {
		args = append(args, v)
		if d == sqltx.SQLite {
			return fmt.Sprintf("?%d", len(args))
		}
		return fmt.Sprintf("$%d", len(args))
	}
	set := s.set(d, param(to.State), func(v any) string {
		if v == By {
			return param(to.Trigger)
		}
		return param(v)
	})
	open := s.Terminal.openIn(d, s.column())
	if open == "" {
		// A Func can't be asked in SQL: the row must still be as it is seen now.
		observed, err := s.observe(ctx, tx, ref)
		switch {
		case errors.Is(err, ErrNotFound):
			return Record{}, &TransitionError{Ref: ref, Want: to.State}
		case err != nil:
			return Record{}, err
		}
		if rec := s.record(observed); rec.Final {
			return rec, &TransitionError{Ref: ref, Want: to.State, Found: true, Final: true, State: rec.State}
		}
		open = s.column() + " IS " + param(observed)
		if d == sqltx.Postgres {
			open = fmt.Sprintf(`%s::text COLLATE "C" IS NOT DISTINCT FROM $%d::text`, s.column(), len(args))
		}
	}
	// Without RETURNING, which a rule may not have, and which shows nothing of what the row's AFTER triggers do.
	tag, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET %s WHERE %s AND %s", s.table(), set, where, open), args...)
	if err != nil {
		return Record{}, err
	}
	rec, err := s.Read(ctx, tx, ref)
	switch {
	case errors.Is(err, ErrNotFound) && tag.RowsAffected() == 0:
		return Record{}, &TransitionError{Ref: ref, Want: to.State}
	case err != nil && !errors.Is(err, ErrNotFound):
		return Record{}, err
	case tag.RowsAffected() > 1:
		return Record{}, fmt.Errorf("%w: %v is %d rows of %s: it needs a unique index over its key columns", ErrSchema, ref, tag.RowsAffected(), s.table())
	case tag.RowsAffected() == 0:
		return rec, &TransitionError{Ref: ref, Want: to.State, Found: true, Final: rec.Final, State: rec.State}
	case rec.State != to.State:
		return rec, &TransitionError{Ref: ref, Want: to.State, Moved: true, State: rec.State}
	}
	return rec, nil
}

func (s Status) check(state string) error {
	if !s.Terminal.Terminal(state) {
		return fmt.Errorf("%w: %q is not among those of %s", ErrNotTerminal, state, s.name())
	}
	return nil
}

// set is the UPDATE's SET list; the state's placeholder is given, the others are made by param.
func (s Status) set(d sqltx.Dialect, state string, param func(any) string) string {
	list := s.column() + " = " + state
	for _, column := range slices.Sorted(maps.Keys(s.Set)) {
		value := s.Set[column]
		expr := d.Clock()
		switch {
		case value == NowUTC && d == sqltx.Postgres:
			expr += " AT TIME ZONE 'UTC'"
		case value != Now && value != NowUTC:
			expr = param(value)
		}
		list += ", " + sqltx.Quote("", column) + " = " + expr
	}
	return list
}

// writeNothing takes SQLite's write lock: a transaction that reads first and writes later can fail with SQLITE_BUSY at
// once, whatever the busy timeout.
func writeNothing(ctx context.Context, tx endstate.Tx, table, column string) error {
	_, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET %s = %s WHERE 0", table, column, column))
	return err
}

// CheckTarget says why to can't be settled.
func (s Status) CheckTarget(_ Ref, to Transition) error { return s.check(to.State) }
