package adopt

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/published"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox/audit"
)

// Errors that callers decide on. They arrive wrapped.
var (
	// ErrConfig is returned for a Config whose fields don't make sense, or that isn't the one that an adoption of the same
	// table was begun with.
	ErrConfig = errors.New("adopt: invalid configuration")

	// ErrSchema is returned when a table can't be adopted: it or a column isn't there, it is partitioned or inherited from, what
	// is published can't be told, or a foreign key would have more deleted or changed than the duplicates.
	ErrSchema = errors.New("adopt: the table can't be adopted")

	// ErrNothing is returned by Undo when the table was not adopted.
	ErrNothing = errors.New("adopt: there is nothing to undo")
)

// Config says which table to adopt. The zero Config is for the table event_outbox.
type Config struct {
	Schema string // the table's schema; empty: the connection's search path
	Table  string // default "event_outbox"
	// Aggregate are the columns that together tell aggregates apart. Default "aggregate_id".
	Aggregate []string
	Type      string // the column of the event's type; default "event_type"
	Time      string // the column of the time when the event was written; default "created_at"
	// Published says which events were published, as audit.Config.Published does: a column whose type says so, or a condition
	// such as "status = SENT". What can't be judged is refused, since of two duplicates the published one has to stay; so is a
	// condition that no row of the table meets, which may well be misspelt. Default "published_at".
	Published string
	// NoPublished says that the table has no such column, or that nothing in it was published yet.
	NoPublished bool
	// EventTypes limits the adoption, and with it the index, to types that match one of these patterns of SQL's LIKE. Empty:
	// all types.
	EventTypes []string

	// Add are columns to add unless they are there, such as those that outbox.Writer is to fill. They must be nullable or
	// have a constant default, so that adding them rewrites nothing.
	Add []Column
	// Batch is how many aggregates lose their duplicates in one transaction. Default 500.
	Batch int
	// LockTimeout bounds how long writers may have to wait for a step. Default 2 s.
	LockTimeout time.Duration
	// Logger gets a line for each step at info level. Default slog.Default().
	Logger *slog.Logger
	// Progress is called, on the caller's goroutine, at the beginning of each step, and within the longer ones. Optional.
	Progress func(step string, done int64)
	// Show is how many aggregates Plan lists with what stays of each. Default 20; below zero: none.
	Show int
}

// Column is a column to add.
type Column struct {
	Name string
	Type string // in SQL, with its default if it has one: it is put into the statement as it is
}

func (c Config) withDefaults() Config {
	for _, f := range []struct {
		field    *string
		fallback string
	}{{&c.Table, "event_outbox"}, {&c.Type, "event_type"}, {&c.Time, "created_at"}, {&c.Published, "published_at"}} {
		if *f.field == "" {
			*f.field = f.fallback
		}
	}
	if len(c.Aggregate) == 0 {
		c.Aggregate = []string{"aggregate_id"}
	}
	if c.NoPublished {
		c.Published = ""
	}
	if c.Batch == 0 {
		c.Batch = 500
	}
	if c.LockTimeout == 0 {
		c.LockTimeout = 2 * time.Second
	}
	if c.Show == 0 {
		c.Show = 20
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Progress == nil {
		c.Progress = func(string, int64) {}
	}
	return c
}

func (c Config) validate() error {
	for _, column := range c.Add {
		if err := sqltx.CheckIdent(column.Name); err != nil {
			return fmt.Errorf("%w: Add: Name %w", ErrConfig, err)
		}
		if column.Type == "" {
			return fmt.Errorf("%w: Add: column %q has no Type", ErrConfig, column.Name)
		}
	}
	if c.Published != "" {
		if _, err := published.Parse(c.Published); err != nil {
			return fmt.Errorf("%w: Published %w", ErrConfig, err)
		}
	}
	if c.Batch < 0 || c.Batch > 100_000 {
		return fmt.Errorf("%w: Batch is %d", ErrConfig, c.Batch)
	}
	if c.LockTimeout < time.Millisecond {
		return fmt.Errorf("%w: LockTimeout is %v", ErrConfig, c.LockTimeout)
	}
	return nil
}

// audit is the configuration that counts what is going to be removed. It also checks the names.
func (c Config) audit() audit.Config {
	return audit.Config{Schema: c.Schema, Table: c.Table, Aggregate: c.Aggregate, Type: c.Type, Time: c.Time, Published: c.Published,
		NoPublished: c.NoPublished, EventTypes: c.EventTypes}
}

// Adoption adopts one table.
type Adoption struct {
	pool *pgxpool.Pool
	cfg  Config
}

// New returns an Adoption. It sends nothing.
func New(pool *pgxpool.Pool, cfg Config) (*Adoption, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if pool == nil {
		return nil, fmt.Errorf("%w: pool is nil", ErrConfig)
	}
	return &Adoption{pool, cfg}, nil
}

// Plan is what Apply is going to do.
type Plan struct {
	Table      string   `json:"table"`
	Duplicates int64    `json:"duplicates"` // rows to remove
	Aggregates int64    `json:"duplicated_aggregates"`
	Published  int64    `json:"published_duplicates"` // those of the rows that consumers have seen
	Backup     string   `json:"backup_table"`
	Columns    []string `json:"columns"`         // to add
	Index      string   `json:"index"`           // the statement; empty: there is one already
	Step       string   `json:"step,omitempty"`  // of an adoption that was begun before, and "done" of one that is finished
	Removed    int64    `json:"already_removed"` // rows in the backup table
	Steps      []string `json:"steps"`           // the statements of the steps, abridged
	// Condition is how published events are told from others; empty: none is taken for published.
	Condition string   `json:"published_if"`
	Choices   []Choice `json:"choices"` // of Config.Show aggregates, those with the most events first
}

// Plan says what Apply would do. It only reads.
func (a *Adoption) Plan(ctx context.Context) (*Plan, error) {
	var plan *Plan
	err := pgx.BeginTxFunc(ctx, a.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL TimeZone = 'UTC'"); err != nil {
			return err
		}
		t, err := look(ctx, tx, a.cfg)
		if err != nil {
			return err
		}
		if err := t.checkRemovable(ctx, tx); err != nil {
			return err
		}
		if err := t.judge(ctx, tx); err != nil {
			return err
		}
		if plan, err = t.plan(ctx, tx); err != nil || plan.Index == "" {
			return err
		}
		plan.Choices, err = t.choices(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("adopt: plan: %w", err)
	}
	if plan.Index == "" {
		return plan, nil // the index there is lets no duplicate in
	}
	report, err := audit.Run(ctx, a.pool, a.cfg.audit())
	if err != nil {
		return nil, err
	}
	plan.Duplicates, plan.Aggregates, plan.Published = report.Duplicates, report.Duplicated, report.Published
	return plan, nil
}

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

func (t *target) plan(ctx context.Context, q endstate.Querier) (*Plan, error) {
	p := &Plan{Table: t.table(), Backup: t.backup(), Columns: []string{}, Steps: []string{}, Condition: t.publishedIf(), Choices: []Choice{}}
	unique, err := t.isUnique(ctx, q)
	if err != nil {
		return nil, err
	}
	if logged, err := t.exists(ctx, q, t.log()); err != nil {
		return nil, err
	} else if logged {
		err := q.QueryRow(ctx, "SELECT step FROM "+t.log()+" WHERE target = $1::text", t.table()).Scan(&p.Step)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, err
		}
	}
	if backed, err := t.exists(ctx, q, t.backup()); err != nil {
		return nil, err
	} else if backed {
		if err := q.QueryRow(ctx, "SELECT count(*) FROM "+t.backup()).Scan(&p.Removed); err != nil {
			return nil, err
		}
	}
	for _, column := range t.missing() {
		p.Columns = append(p.Columns, sqltx.Quote("", column.Name)+" "+column.Type)
	}
	if len(p.Columns) > 0 {
		p.Steps = append(p.Steps, t.addColumns()+";")
	}
	if !unique {
		p.Index = t.createUnique()
		p.Steps = append(p.Steps,
			fmt.Sprintf("CREATE TABLE %s (LIKE %s);", t.backup(), t.table()),
			t.createIndex("", t.helper())+"; -- to find duplicates by",
			fmt.Sprintf("CREATE TRIGGER %s BEFORE INSERT ON %s …; -- refuses further duplicates (23505)", sqltx.Quote("", t.barrier()), t.table()),
			fmt.Sprintf("DELETE FROM %s …; INSERT INTO %s …; -- in batches of %d aggregates", t.table(), t.backup(), t.cfg.Batch),
			p.Index+";",
			fmt.Sprintf("DROP TRIGGER %s ON %s; DROP INDEX CONCURRENTLY %s;", sqltx.Quote("", t.barrier()), t.table(), sqltx.Quote(t.cfg.Schema, t.helper())),
		)
	}
	return p, nil
}
