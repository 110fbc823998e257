package guard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

const (
	// DefaultLedger is the ledger's table unless Ledger.Table says otherwise.
	DefaultLedger = "endstate_ledger"
	// BackfillTrigger is the trigger's name in entries that Backfill made.
	BackfillTrigger = "backfill"
)

// Ledger guards by a table of the library's own, with one row for each finalized aggregate: its state, who finalized it,
// when, and by which attempt. It needs no status column, knows every key (a missing row is an open aggregate, so it never
// returns ErrNotFound), and gives the provenance that a status column lacks. It is apart from the outbox: no retention ever
// deletes from it, so that a repeat remains a loser forever. The zero Ledger is ready for use after Migrate.
//
// On PostgreSQL an open aggregate is locked by a transaction-level advisory lock, so an attempt that turns out not to be
// ready writes nothing at all.
type Ledger struct {
	Schema string // the table's schema; empty: the connection's search path
	Table  string // default DefaultLedger
}

var (
	_ Guard     = Ledger{}
	_ Reader    = Ledger{}
	_ Validator = Ledger{}
	_ Checker   = Ledger{}
)

// Validate says which field doesn't make sense.
func (l Ledger) Validate() error {
	if l.Schema != "" {
		if err := sqltx.CheckIdent(l.Schema); err != nil {
			return fmt.Errorf("%w: Ledger.Schema %w", ErrConfig, err)
		}
	}
	if err := sqltx.CheckIdent(l.plain()); err != nil {
		return fmt.Errorf("%w: Ledger.Table %w", ErrConfig, err)
	}
	return nil
}

func (l Ledger) plain() string {
	if l.Table == "" {
		return DefaultLedger
	}
	return l.Table
}

func (l Ledger) table() string { return sqltx.Quote(l.Schema, l.plain()) }

func (l Ledger) name() string { return "ledger " + l.table() }

// Read implements Reader.
func (l Ledger) Read(ctx context.Context, q endstate.Querier, ref Ref) (Record, error) {
	if sqltx.Of(q) == sqltx.Postgres {
		return readPlan(ctx, q, ledgerPlan{l}, ref)
	}
	var state, trigger, token, at string
	var digest []byte
	err := q.QueryRow(ctx, fmt.Sprintf(`SELECT state, "trigger", token, at, digest FROM %s WHERE aggregate = ?1 AND "key" = ?2`, l.table()),
		ref.Aggregate, ref.Key.Encode()).Scan(&state, &trigger, &token, &at, &digest)
	if errors.Is(err, pgx.ErrNoRows) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, err
	}
	return l.record(ref, state, trigger, token, at, digest)
}

func (l Ledger) record(ref Ref, state, trigger, token, at string, digest []byte) (Record, error) {
	id, err := uuid.Parse(token)
	if err != nil {
		return Record{}, fmt.Errorf("guard: %s, row of %v: token: %w", l.name(), ref, err)
	}
	t, err := time.Parse(time.RFC3339Nano, at)
	if err != nil {
		return Record{}, fmt.Errorf("guard: %s, row of %v: at: %w", l.name(), ref, err)
	}
	return Record{Final: true, State: state, Provenance: &Provenance{Trigger: trigger, At: t, Token: id, Digest: digest}}, nil
}

// Claim implements Guard.
func (l Ledger) Claim(ctx context.Context, tx endstate.Tx, ref Ref) (Record, error) {
	if sqltx.Of(tx) == sqltx.Postgres {
		return claimPlan(ctx, tx, ledgerPlan{l}, ref)
	}
	if err := writeNothing(ctx, tx, l.table(), "state"); err != nil {
		return Record{}, err
	}
	return l.Read(ctx, tx, ref)
}

// Settle implements Guard.
func (l Ledger) Settle(ctx context.Context, tx endstate.Tx, ref Ref, to Transition) (Record, error) {
	if to.State == "" {
		return Record{}, errEmptyState
	}
	insert := `INSERT INTO %s (aggregate, "key", state, "trigger", token, digest, at) VALUES ($1::text, $2::text, $3::text, $4::text, $5::uuid, $6::bytea, %s) ON CONFLICT (aggregate, "key") DO NOTHING RETURNING at, state`
	var at any
	var state string
	if sqltx.Of(tx) == sqltx.SQLite {
		insert = `INSERT INTO %s (aggregate, "key", state, "trigger", token, digest, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, %s) ON CONFLICT (aggregate, "key") DO NOTHING RETURNING at, state`
	}
	err := tx.QueryRow(ctx, fmt.Sprintf(insert, l.table(), sqltx.Of(tx).Clock()),
		ref.Aggregate, ref.Key.Encode(), to.State, to.Trigger, to.Token.String(), to.Digest).Scan(&at, &state)
	if errors.Is(err, pgx.ErrNoRows) {
		rec, err := l.Read(ctx, tx, ref)
		if err != nil {
			return Record{}, err
		}
		return rec, &TransitionError{Ref: ref, Want: to.State, Found: true, Final: rec.Final, State: rec.State}
	}
	if err != nil {
		return Record{}, err
	}
	if state != to.State {
		return Record{}, &TransitionError{Ref: ref, Want: to.State, Moved: true, State: state}
	}
	rec := Record{Final: true, State: to.State, Provenance: &Provenance{Trigger: to.Trigger, Token: to.Token, Digest: to.Digest}}
	switch at := at.(type) {
	case time.Time:
		rec.Provenance.At = at
	case string:
		rec.Provenance.At, err = time.Parse(time.RFC3339Nano, at)
	case []byte:
		rec.Provenance.At, err = time.Parse(time.RFC3339Nano, string(at))
	}
	return rec, err
}

// errEmptyState is of the only state that isn't terminal to a ledger.
var errEmptyState = fmt.Errorf("%w: it is empty", ErrNotTerminal)
