package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// BackfillTrigger is the trigger's name in entries that Backfill made.
const BackfillTrigger = "backfill"

// Backfill says which rows of a status table are to have entries in a ledger: those that were terminal before the ledger was
// there, and that All would call an anomaly.
type Backfill struct {
	Status    Status
	Aggregate string // the aggregate type's name, as in finalize.Config
	At        string // the column of when a row became terminal; empty: the time of the backfill
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
	columns := append([]string{b.Status.Column}, b.Status.keys()...)
	at := "NULL::timestamptz"
	if b.At != "" {
		columns = append(columns, b.At)
		at = sqltx.Quote("", b.At) + "::timestamptz"
	}
	if err := migrate.Missing(ctx, tx, b.Status.Schema, b.Status.Table, columns); err != nil {
		return r, fmt.Errorf("%w: %w", ErrSchema, err)
	}
	keys, err := b.keys(ctx, tx)
	if err != nil {
		return r, err
	}
	args := []any{b.Aggregate}
	beyond := ""
	if len(b.After) > 0 {
		var values []string
		for i, key := range keys {
			args = append(args, b.After[i])
			values = append(values, fmt.Sprintf("$%d::text::%s", len(args), key.sqlType))
		}
		beyond = fmt.Sprintf(" AND (%s) > (%s)", key(keys, "%s"), strings.Join(values, ", "))
	}
	batch := fmt.Sprintf(`SELECT %s AS endstate_key, %s AS endstate_usable, %s::text AS endstate_state, %s AS endstate_at, ARRAY[%s] AS endstate_parts, row_number() OVER (ORDER BY %s) AS endstate_n
	FROM %s WHERE NOT %s%s ORDER BY %[6]s LIMIT %[10]d`, strings.Join(encoded(keys), ` || '/' || `), usable(keys), b.Status.column(), at,
		key(keys, "%s::text"), key(keys, "%s"), b.Status.table(), b.Status.Terminal.open(b.Status.column()), beyond, b.Limit)
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

// keyColumn is a key column with its type and the kind of key that it holds.
type keyColumn struct {
	column, sqlType string
	kind            byte
}

// keys finds the kinds of the status table's keys by their columns' types.
func (b Backfill) keys(ctx context.Context, q endstate.Querier) (keys []keyColumn, err error) {
	for _, column := range b.Status.keys() {
		k := keyColumn{column: sqltx.Quote("", column)}
		var base string
		err := q.QueryRow(ctx, `SELECT format_type(atttypid, atttypmod), format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = to_regclass($1::text) AND attname = $2::text`,
			b.Status.table(), column).Scan(&k.sqlType, &base)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, fmt.Errorf("%w: table %s has no column %s", ErrSchema, b.Status.table(), k.column)
		}
		if err != nil {
			return nil, err
		}
		switch base {
		case "uuid":
			k.kind = kindUUID
		case "smallint", "integer", "bigint":
			k.kind = kindInt
		case "text", "character varying":
			k.kind = kindText
		default:
			return nil, fmt.Errorf("%w: key column %s is of type %s; there are keys for text, varchar, uuid and the integers", ErrSchema, k.column, base)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// key lists the key columns, each in a format.
func key(keys []keyColumn, format string) string {
	list := make([]string, len(keys))
	for i, k := range keys {
		list[i] = fmt.Sprintf(format, k.column)
	}
	return strings.Join(list, ", ")
}

// encoded are the parts of Key.Encode in SQL.
func encoded(keys []keyColumn) []string {
	list := make([]string, len(keys))
	for i, k := range keys {
		list[i] = fmt.Sprintf("'%c:' || replace(replace(replace(%s::text, '%%', '%%25'), '/', '%%2F'), '#', '%%23')", k.kind, k.column)
	}
	return list
}

// usable is the condition that Key.Validate has but for the length.
func usable(keys []keyColumn) string {
	terms := make([]string, len(keys))
	for i, k := range keys {
		terms[i] = fmt.Sprintf("coalesce(%s::text, '') <> ''", k.column)
	}
	return strings.Join(terms, " AND ")
}
