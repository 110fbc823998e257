package inbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// Table is the way of a consumer whose effects are in a database: the record that an event was handled commits in one
// transaction with them, so the effect happens exactly once. Tx is the transaction that the function gets: pgx.Tx from
// NewTable, *sql.Tx from NewTableSQL. It is safe for concurrent use.
type Table[Tx any] struct {
	cfg TableConfig
	sql *statements
	db  database[Tx]
}

// TableConfig says for whom a Table keeps its records and how. Consumer is required.
type TableConfig struct {
	// Consumer is the consumer's name, such as "results": each consumer of an event handles it once. Keep it forever. At
	// most MaxConsumer bytes.
	Consumer string
	// Key returns the business key by which deliveries are the same, such as "assessment.completed/batch-1": at most MaxKey
	// bytes, and always the same for one event. It is for producers that may announce one thing by several events of different
	// ids, and for events of others, whose ids aren't UUIDs and stand in a header or the payload: an event without an ID is
	// handled once by its key, and the function gets it with an ID that is derived from key and content. Let it include the
	// type: of two events of one key only the first has an effect (see Collided). Default: the event's id.
	Key func(outbox.Event) (string, error)
	// Types are the types of the events that the consumer handles, each spelt out ("assessment.completed") or a family
	// ("assessment.*"). An event of another type is Skipped: nothing is kept of it. Default: all.
	Types []string
	// Tenant names the tenant for whom an event is handled, from the call's context, where one consumer handles those of several
	// tenants: each then has records of its own, for events of one id or key too, and DeadLetters, Retry, Discard and Clean
	// are about the tenant of their context. At most MaxConsumer bytes. A call for which it returns an error, or "", fails with
	// ErrTenant. Default: there is one tenant.
	Tenant func(context.Context) (string, error)
	// Wait is how long a delivery waits for another one of the same event, without holding a connection; then it fails with
	// ErrInProgress. Negative: not at all. Default 5 s. SQLite has one writer at a time, so there it waits for all of them,
	// each time for as long as the connection's busy_timeout says.
	Wait time.Duration
	// MaxAttempts is how often the function may fail at an event before it becomes a dead letter. Negative: it never does.
	// Default 10.
	MaxAttempts int
	// Retention is for how long Clean leaves records of handled events. It must be longer than the producer's longest retry,
	// counted from the event's first publication to the last time that anybody may publish it again, by hand too. Default 30
	// days.
	Retention time.Duration
	// Schema and Table are where the records are. Default: the connection's search path, and DefaultTable.
	Schema, Table string
	// Dialect is "postgres" or "sqlite", for NewTableSQL. Empty: told by the driver.
	Dialect string
	// Logger gets a line at error level for each dead letter, and for an event that wasn't applied since one of another type
	// has its key; at warn level for each failure and other collision; at debug level for the rest. Default slog.Default().
	Logger *slog.Logger
}

// DefaultTable is the inbox's table unless TableConfig.Table says otherwise.
const DefaultTable = "endstate_inbox"

// maxTable leaves room for "_event" in PostgreSQL's 63 bytes, beyond which it cuts names off.
const maxTable = 57

func (c *TableConfig) withDefaults() (TableConfig, error) {
	if c == nil {
		return TableConfig{}, fmt.Errorf("%w: TableConfig is nil; Consumer is required", ErrConfig)
	}
	cfg := *c
	if cfg.Wait == 0 {
		cfg.Wait = 5 * time.Second
	}
	if cfg.MaxAttempts == 0 {
		cfg.MaxAttempts = 10
	}
	if cfg.MaxAttempts < 0 {
		cfg.MaxAttempts = math.MaxInt32
	}
	if cfg.Retention == 0 {
		cfg.Retention = 30 * 24 * time.Hour
	}
	if cfg.Table == "" {
		cfg.Table = DefaultTable
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return cfg, cfg.validate()
}

func (c *TableConfig) validate() error {
	fail := func(field, why string) error { return fmt.Errorf("%w: TableConfig.%s %s", ErrConfig, field, why) }
	if err := checkText(c.Consumer, MaxConsumer); err != nil {
		return fail("Consumer", err.Error())
	}
	if c.Schema != "" {
		if err := sqltx.CheckIdent(c.Schema); err != nil {
			return fail("Schema", err.Error())
		}
	}
	if err := sqltx.CheckIdent(c.Table); err != nil {
		return fail("Table", err.Error())
	}
	if n := len(c.Table); n > maxTable {
		return fail("Table", fmt.Sprintf("is %d bytes long, the limit is %d, so that the names of its indexes fit into 63", n, maxTable))
	}
	if err := checkTypes(c.Types); err != nil {
		return fail("Types", err.Error())
	}
	if c.Retention < 0 {
		return fail("Retention", "is negative")
	}
	if c.MaxAttempts > math.MaxInt32 {
		return fail("MaxAttempts", fmt.Sprintf("is %d, the limit is %d", c.MaxAttempts, math.MaxInt32))
	}
	switch sqltx.Dialect(c.Dialect) {
	case "", sqltx.Postgres, sqltx.SQLite:
	default:
		return fail("Dialect", fmt.Sprintf("is %q; use postgres or sqlite", c.Dialect))
	}
	return nil
}

// NewTable returns a Table on a pgx pool. It sends nothing: call Migrate or Check to look at the database.
func NewTable(pool *pgxpool.Pool, cfg *TableConfig) (*Table[pgx.Tx], error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if pool == nil {
		return nil, fmt.Errorf("%w: pool is nil", ErrConfig)
	}
	if c.Dialect == string(sqltx.SQLite) {
		return nil, fmt.Errorf("%w: TableConfig.Dialect is sqlite, but a pgx pool is PostgreSQL; use NewTableSQL", ErrConfig)
	}
	s := newStatements(&c, sqltx.Postgres)
	return &Table[pgx.Tx]{c, s, &pgxDB{pool, s}}, nil
}

// NewTableSQL returns a Table on database/sql, for PostgreSQL (through any driver) and SQLite.
func NewTableSQL(db *sql.DB, cfg *TableConfig) (*Table[*sql.Tx], error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if db == nil {
		return nil, fmt.Errorf("%w: db is nil", ErrConfig)
	}
	dialect, err := sqltx.Choose(db, c.Dialect)
	if err != nil {
		return nil, fmt.Errorf("%w: TableConfig.%w", ErrConfig, err)
	}
	s := newStatements(&c, dialect)
	return &Table[*sql.Tx]{c, s, &sqlDB{db, dialect, s}}, nil
}

var (
	_ Way[TxFunc[pgx.Tx]]        = (*Table[pgx.Tx])(nil)
	_ Way[TxResultFunc[*sql.Tx]] = TableResults[*sql.Tx]{}
)

// Apply implements Way.
func (t *Table[Tx]) Apply(ctx context.Context, event outbox.Event, fn TxFunc[Tx]) (Result, error) {
	return t.apply(ctx, event, fn.returning())
}

// returning makes fn one that returns nothing to keep; nil stays nil.
func (fn TxFunc[Tx]) returning() TxResultFunc[Tx] {
	if fn == nil {
		return nil
	}
	return func(ctx context.Context, tx Tx, event outbox.Event) ([]byte, error) { return nil, fn(ctx, tx, event) }
}

// TableResults is a Table for functions that return a result.
type TableResults[Tx any] struct{ table *Table[Tx] }

// Results returns the table as a way for functions that return a result, which is kept and handed to repeats.
func (t *Table[Tx]) Results() TableResults[Tx] { return TableResults[Tx]{t} }

// Apply implements Way.
func (r TableResults[Tx]) Apply(ctx context.Context, event outbox.Event, fn TxResultFunc[Tx]) (Result, error) {
	return r.table.apply(ctx, event, fn)
}

// database is one of the two ways to a database.
type database[Tx any] interface {
	// begin opens a transaction and records the delivery in it as handled. There is no session where another delivery has
	// the key's lock, or a row; records are the rows, none while the other one is in progress.
	begin(ctx context.Context, d *delivery) (s session[Tx], records []record, err error)
	// reopen opens a transaction for a key that has a row already, tries to lock the key, and reads its row.
	reopen(ctx context.Context, d *delivery) (s session[Tx], records []record, held bool, err error)
	querier() endstate.Querier
	migrate(ctx context.Context, fn func(endstate.Tx) error) error
}

// session is the transaction of one delivery.
type session[Tx any] interface {
	// tx is what the function gets.
	tx() Tx
	// finish records the delivery as handled, unless begin did, with the function's value, and commits. It fails with errTaken
	// if another one was recorded meanwhile.
	finish(ctx context.Context, d *delivery, value []byte) error
	// rollback undoes all unless finish succeeded, apart from ctx: a cancelled caller must not leak a transaction. It is safe to
	// call twice.
	rollback(ctx context.Context)
}

// errTaken tells that another delivery committed first, although this one had the lock: under another key, or without it.
var errTaken = errors.New("another delivery was recorded")

// failure marks an error as the event's: it counts as an attempt.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// maxRuns is how often a transaction is run when the database breaks it off.
const maxRuns = 10

func (t *Table[Tx]) apply(ctx context.Context, event outbox.Event, fn TxResultFunc[Tx]) (Result, error) {
	if !handles(t.cfg.Types, event.Type) {
		return skip(ctx, t.cfg.Logger, t.cfg.Consumer, event), nil
	}
	consumer, err := t.consumer(ctx)
	if err != nil {
		return Result{}, err
	}
	d, err := newDelivery(consumer, event, t.cfg.Key)
	if errors.Is(err, ErrSkip) {
		return skip(ctx, t.cfg.Logger, t.cfg.Consumer, event), nil
	}
	if err != nil {
		return Result{}, err
	}
	return t.handle(ctx, d, fn)
}

// handle handles a delivery once.
func (t *Table[Tx]) handle(ctx context.Context, d *delivery, fn TxResultFunc[Tx]) (Result, error) {
	if fn == nil {
		return Result{}, fmt.Errorf("inbox: %v: the function is nil", d)
	}
	var result Result
	err := t.retry(ctx, maxRuns, func() error {
		return until(ctx, t.cfg.Wait, func() (bool, error) {
			var err error
			result, err = t.once(ctx, d, fn)
			return errors.Is(err, ErrInProgress), err
		})
	})
	if f, ok := errors.AsType[failure](err); ok {
		return t.count(ctx, d, f.error)
	}
	if err != nil {
		return Result{}, fmt.Errorf("inbox: %v: %w", d, t.explain(ctx, err))
	}
	d.report(ctx, t.cfg.Logger, result)
	return result, nil
}

// retry runs a transaction again for as long as the database breaks it off.
func (t *Table[Tx]) retry(ctx context.Context, runs int, run func() error) error {
	var pause *backoff.ExponentialBackOff
	for n := 1; ; n++ {
		err := run()
		if n == runs || !sqltx.Conflicted(err) && !errors.Is(err, errTaken) || errors.Is(err, ErrInProgress) {
			return err
		}
		if pause == nil {
			pause = newPause(250 * time.Millisecond)
		}
		t.cfg.Logger.DebugContext(ctx, "transaction broken off, running it again", "consumer", t.cfg.Consumer, "cause", err)
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(pause.NextBackOff()):
		}
	}
}

// once runs one transaction.
func (t *Table[Tx]) once(ctx context.Context, d *delivery, fn TxResultFunc[Tx]) (Result, error) {
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	s, result, err := t.open(ctx, d)
	if s == nil || err != nil {
		return result, err
	}
	defer s.rollback(ctx)
	value, err := t.call(ctx, s, d, fn)
	if errors.Is(err, ErrSkip) {
		return Result{Outcome: Skipped}, nil
	}
	if err != nil {
		return Result{}, failure{err}
	}
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	if err := s.finish(ctx, d, value); err != nil {
		if errors.Is(err, ErrTxAborted) || errors.Is(err, ErrTxEnded) || errors.Is(err, sqltx.ErrRowsOpen) || sqltx.Definite(err) {
			err = failure{err} // a deferred constraint, say: it will fail the next time, too
		}
		return Result{}, err
	}
	return Result{Outcome: Applied, First: d.event.ID, Value: value}, nil
}

// open opens the transaction for a delivery that must be handled; there is no session if it needn't be.
func (t *Table[Tx]) open(ctx context.Context, d *delivery) (session[Tx], Result, error) {
	s, records, err := t.db.begin(ctx, d)
	if s != nil || err != nil {
		return s, Result{}, err
	}
	result, over, err := d.judge(records)
	switch {
	case over:
		return nil, result, err
	case len(records) == 0:
		return nil, Result{}, ErrInProgress
	}
	// It failed before.
	s, records, held, err := t.db.reopen(ctx, d)
	if err != nil {
		return nil, Result{}, err
	}
	result, over, err = d.judge(records)
	if !over && !held {
		err = ErrInProgress
	}
	if over || err != nil {
		s.rollback(ctx)
		return nil, result, err
	}
	return s, Result{}, nil
}

// call calls fn, and counts an attempt if it panics or ends its goroutine.
func (t *Table[Tx]) call(ctx context.Context, s session[Tx], d *delivery, fn TxResultFunc[Tx]) ([]byte, error) {
	returned := false
	defer func() {
		if !returned {
			s.rollback(ctx)
			_, _ = t.count(ctx, d, errors.New("the function panicked, or ended its goroutine"))
		}
	}()
	value, err := fn(ctx, s.tx(), d.event)
	returned = true
	return value, err
}

const rollbackTimeout = 5 * time.Second

// detached is for what must be done though the caller's context has ended.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
}

// explain adds what the database lacks to an error that may come from it.
func (t *Table[Tx]) explain(ctx context.Context, err error) error {
	if sqltx.Incomplete(err) {
		ctx, cancel := detached(ctx)
		defer cancel()
		if lack := t.Check(ctx); errors.Is(lack, ErrSchema) {
			return fmt.Errorf("%w (%w)", lack, err)
		}
	}
	return err
}
