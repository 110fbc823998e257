package adopt

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/published"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// target is a table that is being adopted, as it is.
type target struct {
	cfg   Config
	oid   uint32
	types map[string]string // of the columns
	order []string          // the columns, but for generated ones

	condition published.Condition
	published published.Verdict // once judge has looked; its SQL is empty if nothing is published
}

// look reads what the table is like.
func look(ctx context.Context, q endstate.Querier, cfg Config) (*target, error) {
	t := &target{cfg: cfg, types: map[string]string{}}
	var kind string
	err := q.QueryRow(ctx, `SELECT c.oid, n.nspname::text, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1::text)`,
		sqltx.Quote(cfg.Schema, cfg.Table)).Scan(&t.oid, &t.cfg.Schema, &kind)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%w: table %s does not exist", ErrSchema, sqltx.Quote(cfg.Schema, cfg.Table))
	}
	if err != nil {
		return nil, err
	}
	switch kind {
	case "r":
	case "p":
		return nil, fmt.Errorf("%w: %s is partitioned, and a unique index there must contain the partition key, so it can't deduplicate", ErrSchema, t.table())
	default:
		return nil, fmt.Errorf("%w: %s is no table", ErrSchema, t.table())
	}
	columns := append([]string{cfg.Type, cfg.Time}, cfg.Aggregate...)
	if cfg.Published != "" {
		if t.condition, err = published.Parse(cfg.Published); err != nil {
			return nil, err
		}
		columns = append(columns, t.condition.Column)
	}
	if err := migrate.Missing(ctx, q, t.cfg.Schema, t.cfg.Table, columns); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSchema, err)
	}
	rows, err := q.Query(ctx, `SELECT attname::text, format_type(atttypid, atttypmod), attgenerated <> '' FROM pg_attribute
WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum`, t.oid)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name, kind string
		var generated bool
		if err := rows.Scan(&name, &kind, &generated); err != nil {
			return nil, err
		}
		t.types[name] = kind
		if !generated {
			t.order = append(t.order, name)
		}
	}
	return t, rows.Err()
}

func (t *target) table() string { return sqltx.Quote(t.cfg.Schema, t.cfg.Table) }

// companion names what stands beside the table. Names are legible, and distinct even where the table's own is long.
func (t *target) companion(suffix string) string {
	name := t.cfg.Table
	if len(name) > 63-len("_endstate_removed") {
		sum := sha256.Sum256([]byte(name))
		cut := 30
		for !utf8.RuneStart(name[cut]) {
			cut--
		}
		name = fmt.Sprintf("%s_%x", name[:cut], sum[:4])
	}
	return name + "_endstate_" + suffix
}

func (t *target) backup() string  { return sqltx.Quote(t.cfg.Schema, t.companion("removed")) }
func (t *target) barrier() string { return t.companion("adopting") } // a trigger, and its function
func (t *target) helper() string  { return t.companion("helper") }   // the index that isn't unique
func (t *target) unique() string  { return t.companion("unique") }
func (t *target) log() string     { return sqltx.Quote(t.cfg.Schema, "endstate_adoptions") }

// keys are the columns that are going to be unique together.
func (t *target) keys() []string { return append(slices.Clone(t.cfg.Aggregate), t.cfg.Type) }

func quoted(names []string, prefix string) string {
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = prefix + sqltx.Quote("", name)
	}
	return strings.Join(list, ", ")
}

// covered is the condition that a row is to be unique: no key is NULL, and its type matches a pattern.
func (t *target) covered(prefix string) string {
	var terms []string
	for _, key := range t.keys() {
		terms = append(terms, prefix+sqltx.Quote("", key)+" IS NOT NULL")
	}
	if typed := t.typed(prefix); typed != "" {
		terms = append(terms, typed)
	}
	return strings.Join(terms, " AND ")
}

// typed is the condition that a row's type matches one of the patterns, empty for all types.
func (t *target) typed(prefix string) string {
	var terms []string
	for _, pattern := range t.cfg.EventTypes {
		terms = append(terms, fmt.Sprintf("%s%s::text LIKE %s", prefix, sqltx.Quote("", t.cfg.Type), sqltx.Literal(pattern)))
	}
	if len(terms) == 0 {
		return ""
	}
	return "(" + strings.Join(terms, " OR ") + ")"
}

// where is an index's predicate, with WHERE.
func (t *target) where() string {
	if typed := t.typed(""); typed != "" {
		return " WHERE " + typed
	}
	return ""
}

func (t *target) createIndex(unique, name string) string {
	return fmt.Sprintf("CREATE %sINDEX CONCURRENTLY %s ON %s (%s)%s", unique, sqltx.Quote("", name), t.table(), quoted(t.keys(), ""), t.where())
}

func (t *target) createUnique() string { return t.createIndex("UNIQUE ", t.unique()) }

// fingerprint is what two runs on one table must agree on.
func (t *target) fingerprint() string {
	text, _ := json.Marshal(map[string]any{"aggregate": t.cfg.Aggregate, "type": t.cfg.Type, "time": t.cfg.Time, "published": t.publishedIf(), "event_types": t.cfg.EventTypes})
	return string(text)
}

// missing are the columns to add that aren't there.
func (t *target) missing() []Column {
	var list []Column
	for _, column := range t.cfg.Add {
		if _, there := t.types[column.Name]; !there {
			list = append(list, column)
		}
	}
	return list
}

func (t *target) addColumns() string {
	var list []string
	for _, column := range t.missing() {
		list = append(list, fmt.Sprintf("ADD COLUMN IF NOT EXISTS %s %s", sqltx.Quote("", column.Name), column.Type))
	}
	return fmt.Sprintf("ALTER TABLE %s %s", t.table(), strings.Join(list, ", "))
}

// isUnique reports whether a valid unique index covers the keys already, ours or one over all rows.
func (t *target) isUnique(ctx context.Context, q endstate.Querier) (bool, error) {
	valid, err := t.index(ctx, q, t.unique())
	if err != nil || valid == yes {
		return valid == yes, err
	}
	return migrate.HasUnique(ctx, q, t.cfg.Schema, t.cfg.Table, t.keys())
}

// checkRemovable says why removing rows would do more than that: what isn't in the backup table, Undo can't bring back.
func (t *target) checkRemovable(ctx context.Context, q endstate.Querier) error {
	if unique, err := t.isUnique(ctx, q); err != nil || unique {
		return err // nothing is going to be removed
	}
	var inherited bool
	var keys []string
	err := q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_inherits WHERE inhparent = $1),
	ARRAY(SELECT format('%s of %s', quote_ident(conname), conrelid::regclass) FROM pg_constraint WHERE confrelid = $1 AND contype = 'f' AND confdeltype IN ('c', 'n', 'd') ORDER BY 1)`, t.oid).Scan(&inherited, &keys)
	switch {
	case err != nil:
		return err
	case inherited:
		return fmt.Errorf("%w: other tables inherit from %s, and a unique index doesn't cover their rows", ErrSchema, t.table())
	case len(keys) > 0:
		return fmt.Errorf("%w: removing rows of %s would delete or change those that refer to them, by foreign key %s; drop it, or give it ON DELETE NO ACTION, until the table is adopted", ErrSchema, t.table(), strings.Join(keys, ", "))
	}
	return nil
}

// presence is what became of an index.
type presence int

const (
	no presence = iota
	invalid
	yes
)

func (t *target) index(ctx context.Context, q endstate.Querier, name string) (presence, error) {
	var valid bool
	err := q.QueryRow(ctx, "SELECT indisvalid AND indisready FROM pg_index WHERE indexrelid = to_regclass($1::text)", sqltx.Quote(t.cfg.Schema, name)).Scan(&valid)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return no, nil
	case err != nil:
		return no, err
	case !valid:
		return invalid, nil
	}
	return yes, nil
}

func (t *target) exists(ctx context.Context, q endstate.Querier, table string) (exists bool, err error) {
	err = q.QueryRow(ctx, "SELECT to_regclass($1::text) IS NOT NULL", table).Scan(&exists)
	return exists, err
}
