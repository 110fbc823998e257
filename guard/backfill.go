package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Backfill says which rows of a status table are to have entries in a ledger: those that were terminal before the ledger was
// there, and that All would call an anomaly.
type Backfill struct {
	Status    Status
	Aggregate string // the aggregate type's name, as in finalize.Config
	At        string // the column of when a row became terminal, in UTC if it has no time zone; empty: the time of the backfill
	Limit     int    // how many terminal rows one call looks at; default 1000
	// After is where the call before ended (BackfillResult.Next); nil at the beginning.
	After []string
}

// BackfillResult is what one call of Ledger.Backfill did.
type BackfillResult struct {
	Rows    int64    // terminal rows that it looked at
	Filled  int64    // entries that it made
	Refused int64    // rows whose key can't be one: a part is empty, or it is too long
	Next    []string // for Backfill.After; nil when it has come to the end
}

// Backfill gives terminal rows their entries, a bounded number of them, as part of tx. A row that has an entry keeps it, so it
// may be called again from the beginning, and beside finalizers. PostgreSQL only.
func (l Ledger) Backfill(ctx context.Context, tx endstate.Tx, b Backfill) (BackfillResult, error) {
	r, err := l.backfill(ctx, tx, b)
	if err != nil {
		return BackfillResult{}, fmt.Errorf("guard: backfill %s: %w", l.table(), err)
	}
	return r, nil
}

func (l Ledger) backfill(ctx context.Context, tx endstate.Tx, b Backfill) (r BackfillResult, err error) {
	if b.Limit == 0 {
		b.Limit = 1000
	}
	if sqltx.Of(tx) != sqltx.Postgres {
		return r, fmt.Errorf("%w: it is for PostgreSQL", ErrConfig)
	}
	if err := errors.Join(b.Status.Validate(), l.Validate()); err != nil {
		return r, err
	}
	if b.Status.Terminal.fn != nil {
		return r, fmt.Errorf("%w: Status.Terminal is a guard.Func, which SQL can't ask; use guard.Names or guard.Prefixes", ErrConfig)
	}
	if b.Aggregate == "" || b.Limit < 0 {
		return r, fmt.Errorf("%w: Backfill.Aggregate is empty, or Limit is negative", ErrConfig)
	}
	names := append([]string{b.Status.Column}, b.Status.keys()...)
	if b.At != "" {
		names = append(names, b.At)
	}
	if err := migrate.Missing(ctx, tx, b.Status.Schema, b.Status.Table, names); err != nil {
		return r, fmt.Errorf("%w: %w", ErrSchema, err)
	}
	columns, err := migrate.Columns(ctx, tx, b.Status.Schema, b.Status.Table)
	if err != nil {
		return r, err
	}
	keys, err := b.Status.keyColumnsOf(columns)
	if err != nil {
		return r, err
	}
	at := "NULL::timestamptz"
	if b.At != "" {
		at = sqltx.Quote("", b.At)
		if columns[b.At].Type == "timestamp" {
			at += " AT TIME ZONE 'UTC'" // not the session's
		}
		at = "CAST(" + at + " AS timestamptz)"
	}
	order := join(keys, ", ", func(c keyColumn) string { return c.column })
	args := []any{b.Aggregate}
	beyond := ""
	if len(b.After) > 0 {
		if len(b.After) != len(keys) {
			return r, fmt.Errorf("%w: Backfill.After has %d parts, the key has %d", ErrConfig, len(b.After), len(keys))
		}
		for _, part := range b.After {
			args = append(args, part)
		}
		n := 1
		beyond = fmt.Sprintf(" AND (%s) > (%s)", order, join(keys, ", ", func(c keyColumn) string {
			n++
			return c.value(fmt.Sprintf("$%d", n))
		}))
	}
	batch := fmt.Sprintf(`SELECT %s AS endstate_key, %s AS endstate_usable, %s::text AS endstate_state, %s AS endstate_at, ARRAY[%s] AS endstate_parts, row_number() OVER (ORDER BY %s) AS endstate_n
	FROM %s WHERE NOT %s%s ORDER BY %[6]s LIMIT %[10]d`,
		join(keys, " || '/' || ", keyColumn.encoded), join(keys, " AND ", func(c keyColumn) string { return c.usable("") }), b.Status.column(), at,
		join(keys, ", ", func(c keyColumn) string { return c.text("") }), order, b.Status.table(), b.Status.Terminal.open(b.Status.column()), beyond, b.Limit)
	var last *string // as JSON, which every driver reads
	err = tx.QueryRow(ctx, fmt.Sprintf(`WITH endstate_batch AS MATERIALIZED (
	%s),
endstate_filled AS (
	INSERT INTO %s (aggregate, "key", state, "trigger", token, at)
	SELECT $1::text, endstate_key, endstate_state, '%s', gen_random_uuid(), coalesce(endstate_at, clock_timestamp()) FROM endstate_batch WHERE endstate_usable AND octet_length(endstate_key) <= %d
	ON CONFLICT (aggregate, "key") DO NOTHING RETURNING 1)
SELECT count(*), (SELECT count(*) FROM endstate_filled), count(*) FILTER (WHERE NOT endstate_usable OR octet_length(endstate_key) > %[4]d),
	(SELECT to_json(endstate_parts)::text FROM endstate_batch ORDER BY endstate_n DESC LIMIT 1) FROM endstate_batch`,
		batch, l.table(), BackfillTrigger, MaxKey), args...).Scan(&r.Rows, &r.Filled, &r.Refused, &last)
	if err != nil || r.Rows < int64(b.Limit) {
		return r, err
	}
	return r, json.Unmarshal([]byte(*last), &r.Next)
}
