package adopt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// MoveConfig says from which table of a service's own a Move takes events, and how that table has them.
type MoveConfig struct {
	Schema string // the table's schema; empty: the connection's search path
	Table  string // default "event_outbox"

	ID   string // the column of the event's id: a UUID, a number or text; default "id"
	Type string // the column of the event's type; default "event_type"
	// Aggregate is the column of the aggregate's id. Default "aggregate_id".
	Aggregate string
	// AggregateType is the column of the aggregate's type. Empty: AggregateName is the type of all.
	AggregateType string
	AggregateName string
	Payload       string // the column of the payload: text, json, jsonb or bytea; default "payload"
	ContentType   string // of all payloads; default "application/json", as which text and bytea are checked
	Headers       string // a json or jsonb column of headers; empty: none
	DedupKey      string // a text column that is unique; empty: none
	Time          string // the column of the time when the event was written, with or without time zone; default "created_at"
	// TimeZone is the time zone of a Time column that has none. Default "UTC".
	TimeZone string
	// Order is the column that grows in the order in which an aggregate's events were written. Default: ID if that is a
	// number, else Time.
	Order string

	// Published is the column that tells what is published: a nullable timestamp that is NULL until then, a boolean that is
	// false, or any other with PublishedValue and PendingValue. Default "published_at".
	Published      string
	PublishedValue string // what Published holds once an event is published, such as "SENT"
	PendingValue   string // what it holds until then, such as "NEW"

	// Outbox is where the events go. The zero Writer is endstate_outbox.
	Outbox outbox.Writer
	// Subscription is whose publications count when a move is undone. Default "default".
	Subscription string

	Batch       int           // how many events go over in one transaction; default 1000
	LockTimeout time.Duration // how long writers may have to wait for a step; default 2 s
	// Logger gets a line for each step at info level. Default slog.Default().
	Logger *slog.Logger
	// Progress is called, on the caller's goroutine, at the beginning of each step, and after each batch. Optional.
	Progress func(step string, done int64)
}

func (c MoveConfig) withDefaults() MoveConfig {
	for _, f := range []struct {
		field    *string
		fallback string
	}{{&c.Table, "event_outbox"}, {&c.ID, "id"}, {&c.Type, "event_type"}, {&c.Aggregate, "aggregate_id"}, {&c.Payload, "payload"},
		{&c.ContentType, "application/json"}, {&c.Time, "created_at"}, {&c.TimeZone, "UTC"}, {&c.Published, "published_at"}, {&c.Subscription, "default"}} {
		if *f.field == "" {
			*f.field = f.fallback
		}
	}
	if c.Batch == 0 {
		c.Batch = 1000
	}
	if c.LockTimeout == 0 {
		c.LockTimeout = 2 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Progress == nil {
		c.Progress = func(string, int64) {}
	}
	return c
}

func (c MoveConfig) validate() error {
	fail := func(field, why string) error { return fmt.Errorf("%w: MoveConfig.%s %s", ErrConfig, field, why) }
	for _, f := range []struct{ name, column string }{{"Table", c.Table}, {"ID", c.ID}, {"Type", c.Type}, {"Aggregate", c.Aggregate}, {"Payload", c.Payload},
		{"Time", c.Time}, {"Published", c.Published}} {
		if err := sqltx.CheckIdent(f.column); err != nil {
			return fail(f.name, err.Error())
		}
	}
	switch {
	case (c.AggregateType == "") == (c.AggregateName == ""):
		return fail("AggregateType", "or AggregateName must be set, and not both: a column, or one name for all")
	case len(c.AggregateName) > outbox.MaxName || sqltx.CheckText(c.AggregateName) != nil:
		return fail("AggregateName", "is no name of an aggregate type")
	case len(c.ContentType) > outbox.MaxName || sqltx.CheckText(c.ContentType) != nil:
		return fail("ContentType", "is no media type")
	case (c.PublishedValue == "") != (c.PendingValue == ""):
		return fail("PublishedValue", "and PendingValue go together")
	case c.PublishedValue != "" && c.PublishedValue == c.PendingValue:
		return fail("PublishedValue", "is the PendingValue")
	case c.Batch < 1 || c.Batch > 100_000:
		return fail("Batch", fmt.Sprintf("is %d", c.Batch))
	case c.LockTimeout < time.Millisecond:
		return fail("LockTimeout", fmt.Sprintf("is %v", c.LockTimeout))
	case c.Outbox.Columns != nil:
		return fail("Outbox.Columns", "is set; events move into the library's own table")
	}
	return c.Outbox.Validate()
}

// Move moves what isn't published yet from a service's own outbox table into the library's, while writers go on: in order, in
// batches, each of which takes the events over and marks them as published in the table that they come from. Then a trigger
// takes over what writers still put there, in the writers' own transactions. What can't be taken is reported before anything is
// touched.
//
// The service's own relay must have ended before Apply, unless it holds the rows that it publishes locked until they are
// marked: what it publishes without a lock may be published twice. Afterwards it finds nothing to publish.
type Move struct {
	pool *pgxpool.Pool
	cfg  MoveConfig
}

// NewMove returns a Move. It sends nothing.
func NewMove(pool *pgxpool.Pool, cfg MoveConfig) (*Move, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if pool == nil {
		return nil, fmt.Errorf("%w: pool is nil", ErrConfig)
	}
	return &Move{pool, cfg}, nil
}

// MovePlan is what Apply is going to do.
type MovePlan struct {
	Table   string   `json:"table"`
	Outbox  string   `json:"outbox"`
	Pending int64    `json:"pending"` // events to move
	Moving  bool     `json:"moving"`  // the trigger is there: a move was begun and not finished
	Notes   []string `json:"notes"`   // what to know of the table
	Steps   []string `json:"steps"`   // the statements of the steps, abridged
}

// Plan says what Apply would do, or why the table can't be moved from. It only reads, and reads every pending event.
func (m *Move) Plan(ctx context.Context) (*MovePlan, error) {
	var plan *MovePlan
	err := pgx.BeginTxFunc(ctx, m.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		s, err := lookMove(ctx, tx, m.cfg)
		if err != nil {
			return err
		}
		plan = &MovePlan{Table: s.table(), Outbox: s.outbox(), Notes: s.notes, Steps: s.steps()}
		if plan.Moving, err = s.moving(ctx, tx); err != nil {
			return err
		}
		plan.Pending, err = s.checkPending(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("adopt: plan the move: %w", err)
	}
	return plan, nil
}

// moveSource is a table that events are moved from, as it is.
type moveSource struct {
	cfg   MoveConfig
	oid   uint32
	types map[string]string // of the columns, domains resolved
	notes []string
}

// lookMove reads what the table is like, and says what of it can't be taken.
func lookMove(ctx context.Context, q pgx.Tx, cfg MoveConfig) (*moveSource, error) {
	s := &moveSource{cfg: cfg, types: map[string]string{}}
	var kind string
	err := q.QueryRow(ctx, `SELECT c.oid, n.nspname::text, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1::text)`,
		sqltx.Quote(cfg.Schema, cfg.Table)).Scan(&s.oid, &s.cfg.Schema, &kind)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, fmt.Errorf("%w: table %s does not exist", ErrSchema, sqltx.Quote(cfg.Schema, cfg.Table))
	case err != nil:
		return nil, err
	case kind != "r" && kind != "p":
		return nil, fmt.Errorf("%w: %s is no table", ErrSchema, s.table())
	}
	nullable, err := s.columns(ctx, q)
	if err != nil {
		return nil, err
	}
	if err := cfg.Outbox.Check(ctx, q); err != nil {
		return nil, err
	}
	return s, s.judge(nullable)
}

func (s *moveSource) columns(ctx context.Context, q pgx.Tx) (nullable map[string]bool, err error) {
	// With quote_all_identifiers, format_type quotes what SQL itself has no name for: "uuid". One type is never without quotes.
	rows, err := q.Query(ctx, `WITH RECURSIVE endstate_type AS (
	SELECT attname, attnotnull, atttypid AS type FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
	UNION ALL SELECT e.attname, e.attnotnull, t.typbasetype FROM endstate_type e JOIN pg_type t ON t.oid = e.type WHERE t.typtype = 'd')
SELECT e.attname::text, CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace AND t.typname <> 'char' THEN replace(format_type(e.type, NULL), '"', '') ELSE format_type(e.type, NULL) END, NOT e.attnotnull
FROM endstate_type e JOIN pg_type t ON t.oid = e.type WHERE t.typtype <> 'd'`, s.oid)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	nullable = map[string]bool{}
	for rows.Next() {
		var name, kind string
		var null bool
		if err := rows.Scan(&name, &kind, &null); err != nil {
			return nil, err
		}
		s.types[name], nullable[name] = kind, null
	}
	return nullable, rows.Err()
}

// judge says which column is missing, or of a type that can't be taken.
func (s *moveSource) judge(nullable map[string]bool) error {
	c := &s.cfg
	var errs []error
	fail := func(column, why string) {
		errs = append(errs, fmt.Errorf("%w: column %s of %s %s", ErrSchema, sqltx.Quote("", column), s.table(), why))
	}
	one := func(column string, types ...string) {
		kind, there := s.types[column]
		if !there {
			fail(column, "does not exist")
		} else if len(types) > 0 && !slices.Contains(types, kind) {
			fail(column, fmt.Sprintf("is of type %s; it can be %s", kind, strings.Join(types, ", ")))
		}
	}
	text := []string{"text", "character varying", "character"}
	numbers := []string{"smallint", "integer", "bigint"}
	one(c.ID, append(append([]string{"uuid"}, text...), numbers...)...)
	one(c.Type)
	one(c.Aggregate)
	one(c.Payload, append([]string{"json", "jsonb", "bytea"}, text...)...)
	one(c.Time, "timestamp with time zone", "timestamp without time zone")
	for _, column := range []string{c.AggregateType, c.Order, c.DedupKey} {
		if column != "" {
			one(column)
		}
	}
	if c.Headers != "" {
		one(c.Headers, "json", "jsonb")
	}
	if c.Order == "" {
		if c.Order = c.Time; strings.Contains("|smallint|integer|bigint|", "|"+s.types[c.ID]+"|") {
			c.Order = c.ID
		} else {
			s.notes = append(s.notes, fmt.Sprintf("events of one aggregate with the same %s go over in the order of their ids", sqltx.Quote("", c.Time)))
		}
	}
	one(c.Published)
	if c.PublishedValue == "" && errs == nil {
		switch kind := s.types[c.Published]; {
		case strings.HasPrefix(kind, "timestamp") && nullable[c.Published], kind == "boolean":
		default:
			fail(c.Published, fmt.Sprintf("is of type %s, which doesn't tell what is published; say what it holds before and after: PendingValue and PublishedValue", kind))
		}
	}
	if nullable[c.ID] {
		fail(c.ID, "may be NULL; make it NOT NULL, so that each event has an id")
	}
	for _, column := range []string{c.Type, c.Aggregate, c.AggregateType, c.Payload} {
		if column != "" && nullable[column] {
			s.notes = append(s.notes, fmt.Sprintf("%s may be NULL: from then on such an event goes out with an empty one, lest its writer fail", sqltx.Quote("", column)))
		}
	}
	return errors.Join(errs...)
}
