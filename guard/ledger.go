package guard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// DefaultLedger is the ledger's table unless Ledger.Table says otherwise.
const DefaultLedger = "endstate_ledger"

// Ledger guards by a table of the library's own, with one row for each finalized aggregate: its state, who finalized it,
// when, and by which attempt. It needs no status column, knows every key (a missing row is an open aggregate, so it never
// returns ErrNotFound), and gives the provenance that a status column lacks. It is apart from the outbox: no retention ever
// deletes from it, so that a repeat remains a loser for ever. The zero Ledger is ready for use after Migrate.
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
func (l Ledger) Read(ctx context.Context, q Querier, ref Ref) (Record, error) {
	if sqltx.Of(q) == sqltx.Postgres {
		return readPlan(ctx, q, ledgerPlan{l}, 0, ref)
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
func (l Ledger) Claim(ctx context.Context, tx Tx, ref Ref) (Record, error) {
	if sqltx.Of(tx) == sqltx.Postgres {
		return claimPlan(ctx, tx, ledgerPlan{l}, ref)
	}
	if err := writeNothing(ctx, tx, l.table(), "state"); err != nil {
		return Record{}, err
	}
	return l.Read(ctx, tx, ref)
}

// Settle implements Guard.
func (l Ledger) Settle(ctx context.Context, tx Tx, ref Ref, to Transition) (Record, error) {
	if err := l.CheckTarget(ref, to); err != nil {
		return Record{}, err
	}
	insert := `INSERT INTO %s (aggregate, "key", state, "trigger", token, digest, at) VALUES ($1::text, $2::text, $3::text, $4::text, $5::uuid, $6::bytea, %s) ON CONFLICT (aggregate, "key") DO NOTHING RETURNING at`
	var at any
	if sqltx.Of(tx) == sqltx.SQLite {
		insert = `INSERT INTO %s (aggregate, "key", state, "trigger", token, digest, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, %s) ON CONFLICT (aggregate, "key") DO NOTHING RETURNING at`
	}
	err := tx.QueryRow(ctx, fmt.Sprintf(insert, l.table(), clock(sqltx.Of(tx))),
		ref.Aggregate, ref.Key.Encode(), to.State, to.Trigger, to.Token.String(), to.Digest).Scan(&at)
	if errors.Is(err, pgx.ErrNoRows) {
		return Record{}, fmt.Errorf("%w: %s has an entry of %v", ErrNotOpen, l.name(), ref)
	}
	if err != nil {
		return Record{}, err
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

// Plan returns the guard's SQL for finalize to join with its own.
func (l Ledger) Plan(string) sqlplan.Guard { return ledgerPlan{l} }

// CheckTarget says why to can't be settled. Any state that isn't empty is terminal to a ledger.
func (l Ledger) CheckTarget(_ Ref, to Transition) error {
	if to.State == "" {
		return fmt.Errorf("%w: it is empty", ErrNotTerminal)
	}
	return nil
}

type ledgerPlan struct{ Ledger }

func (p ledgerPlan) Parts() int { return 1 }

func (p ledgerPlan) Absent(int) error { return nil }

func ledgerKey(a *sqlplan.Args) (aggregate, key string) {
	return a.Add(func(c *sqlplan.Call) any { return c.Aggregate }) + "::text", a.Add(func(c *sqlplan.Call) any { return c.Key }) + "::text"
}

func (p ledgerPlan) entry(aggregate, key string) string {
	return fmt.Sprintf(`SELECT FROM %s WHERE aggregate = %s AND "key" = %s`, p.table(), aggregate, key)
}

// lock is the advisory lock of an open aggregate. It is not taken once there is an entry: a loser waits for nobody. A
// 64-bit hash may collide; two aggregates then wait for each other, and nothing worse.
func (p ledgerPlan) lock(aggregate, key string) string {
	return fmt.Sprintf("pg_advisory_xact_lock(hashtextextended(%s || '/' || %s, %d)) WHERE NOT EXISTS (%s)",
		aggregate, key, ledgerSeed, p.entry(aggregate, key))
}

// ledgerSeed keeps our advisory locks apart from those of others who hash the same text.
const ledgerSeed = 0x656e6473 // "ends"

const ledgerRow = `true AS final, state, "trigger" AS trigger, token::text AS token, at, digest`

// Claim locks in one statement and reads in the next, whose snapshot is taken after the wait.
func (p ledgerPlan) Claim(int) []func(*sqlplan.Args) string {
	return []func(*sqlplan.Args) string{
		func(a *sqlplan.Args) string {
			aggregate, key := ledgerKey(a)
			return "SELECT " + p.lock(aggregate, key)
		},
		func(a *sqlplan.Args) string {
			aggregate, key := ledgerKey(a)
			return fmt.Sprintf(`SELECT %s, NULL::text AS xid FROM %s WHERE aggregate = %s AND "key" = %s
UNION ALL
SELECT false, NULL, NULL, NULL, NULL, NULL, pg_current_xact_id()::text WHERE NOT EXISTS (%s)`,
				ledgerRow, p.table(), aggregate, key, p.entry(aggregate, key))
		},
	}
}

func (p ledgerPlan) Read(int) func(*sqlplan.Args) string {
	return func(a *sqlplan.Args) string {
		aggregate, key := ledgerKey(a)
		return fmt.Sprintf(`SELECT %s, NULL::text AS xid FROM %s WHERE aggregate = %s AND "key" = %s`, ledgerRow, p.table(), aggregate, key)
	}
}

func (p ledgerPlan) Settle(_ int, a *sqlplan.Args, name, prev, and string) string {
	aggregate, key := ledgerKey(a)
	values := []string{
		a.Add(func(c *sqlplan.Call) any { return c.State }) + "::text",
		a.Add(func(c *sqlplan.Call) any { return c.Trigger }) + "::text",
		a.Add(func(c *sqlplan.Call) any { return c.Token }) + "::uuid",
		a.Add(func(c *sqlplan.Call) any { return c.Digest }) + "::bytea",
	}
	lock := p.lock(aggregate, key)
	if prev != "" {
		lock += " AND EXISTS (SELECT FROM " + prev + ")"
	}
	if and != "" {
		lock += " AND " + and
	}
	return fmt.Sprintf(`%[1]s_lock AS MATERIALIZED (
	SELECT %[2]s),
%[1]s AS (
	INSERT INTO %[3]s (aggregate, "key", state, "trigger", token, digest, at)
	SELECT %[4]s, %[5]s, %[6]s, %[7]s, %[8]s, %[9]s, clock_timestamp() FROM %[1]s_lock
	ON CONFLICT (aggregate, "key") DO NOTHING RETURNING at)`,
		name, lock, p.table(), aggregate, key, values[0], values[1], values[2], values[3])
}

func (p ledgerPlan) Open(_ int, a *sqlplan.Args) string {
	aggregate, key := ledgerKey(a)
	return fmt.Sprintf("NOT EXISTS (%s)", p.entry(aggregate, key))
}
