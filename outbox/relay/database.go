package relay

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// database is a pgx pool, or database/sql on PostgreSQL or SQLite. Its Querier runs each statement in a transaction of its own.
type database struct {
	endstate.Querier
	dialect sqltx.Dialect
	begin   func(ctx context.Context) (endstate.Tx, error)
	pool    *pgxpool.Pool // one of the two
	sql     *sql.DB
	within  bool // a transaction that somebody else ends
}

// abandoned ends a transaction of ours whose client is gone without a word: the network may know for hours after the lease, and until
// then the cursors that it has locked would be nobody's.
const abandoned = "SET LOCAL idle_in_transaction_session_timeout = '5s'"

func openPool(pool *pgxpool.Pool) (database, error) {
	if pool == nil {
		return database{}, fmt.Errorf("%w: the database is nil", outbox.ErrConfig)
	}
	begin := func(ctx context.Context) (endstate.Tx, error) {
		return pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: "BEGIN ISOLATION LEVEL READ COMMITTED; " + abandoned}) // in one trip
	}
	return database{Querier: pool, dialect: sqltx.Postgres, begin: begin, pool: pool}, nil
}

func openSQL(db *sql.DB, dialect string) (database, error) {
	d, err := sqltx.Choose(db, dialect)
	if err != nil {
		return database{}, fmt.Errorf("%w: %w", outbox.ErrConfig, err)
	}
	if db == nil {
		return database{}, fmt.Errorf("%w: the database is nil", outbox.ErrConfig)
	}
	var options *sql.TxOptions
	if d == sqltx.Postgres {
		options = &sql.TxOptions{Isolation: sql.LevelReadCommitted}
	}
	begin := func(ctx context.Context) (endstate.Tx, error) {
		tx, err := db.BeginTx(ctx, options)
		if err != nil {
			return nil, err
		}
		if d == sqltx.Postgres {
			if _, err := tx.ExecContext(ctx, abandoned); err != nil {
				return nil, errors.Join(err, tx.Rollback())
			}
		}
		return sqltx.Wrap(tx, d), nil
	}
	return database{Querier: sqltx.WrapDB(db, d), dialect: d, begin: begin, sql: db}, nil
}

// in is the database inside a transaction, which somebody else ends.
func (d database) in(tx endstate.Tx) database {
	d.Querier, d.within = tx, true
	d.begin = func(context.Context) (endstate.Tx, error) { return unended{tx}, nil }
	return d
}

// unended is a transaction whose part ends without it.
type unended struct{ endstate.Tx }

func (unended) Commit(context.Context) error   { return nil }
func (unended) Rollback(context.Context) error { return nil }

// inTx runs f in a transaction, in READ COMMITTED.
func (d database) inTx(ctx context.Context, f func(tx endstate.Tx) error) error {
	tx, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = tx.Rollback(ctx) // after a commit it does nothing
	}()
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// pins keep the planner to the indexes, whatever statistics it has, so that one plan, made on the empty table, does for a million
// rows: making another one takes as long as reading five hundred.
// The settings end with the transaction, so that they go through a pooler and stay out of others' statements.
const pins = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true),
	set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), set_config('enable_material', 'off', true), set_config('jit', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)`

// What goes around the pins in a transaction that goes on: rolling back to a savepoint takes settings back too. Neither takes a
// transaction id.
const (
	savePins = "SAVEPOINT endstate_pins"
	dropPins = "ROLLBACK TO SAVEPOINT endstate_pins"
)

// pinned runs a query whose plan is pinned, in a transaction that has written nothing, and hands its rows to collect.
func (d database) pinned(ctx context.Context, query string, args []any, collect func(pgx.Rows) error) error {
	read := func(rows pgx.Rows, err error) error {
		if err != nil {
			return err
		}
		defer rows.Close()
		if err := collect(rows); err != nil {
			return err
		}
		return rows.Err()
	}
	if d.sqlite() {
		return read(d.Query(ctx, query, args...))
	}
	before, after := []string{pins}, []string(nil)
	if d.within {
		before, after = []string{savePins, pins}, []string{dropPins}
	}
	if q, ok := d.Querier.(interface {
		SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
	}); ok {
		// One trip, and one transaction: a pipeline is one up to its end.
		var batch pgx.Batch
		for _, statement := range before {
			batch.Queue(statement)
		}
		batch.Queue(query, args...)
		for _, statement := range after {
			batch.Queue(statement)
		}
		results := q.SendBatch(ctx, &batch)
		var err error
		for range before {
			if err == nil {
				_, err = results.Exec()
			}
		}
		if err == nil {
			err = read(results.Query())
		}
		return errors.Join(err, results.Close())
	}
	return d.inTx(ctx, func(tx endstate.Tx) error {
		for _, statement := range before {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		if err := read(tx.Query(ctx, query, args...)); err != nil {
			return err
		}
		for _, statement := range after {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkPooler says which setting a connection lacks that goes through a pooler. Such a connection has been told another process
// id than its server's own; behind it, a statement that was prepared once needn't be there again.
func (d database) checkPooler(ctx context.Context) error {
	check := func(conn *pgx.Conn) error {
		if conn.Config().DefaultQueryExecMode != pgx.QueryExecModeCacheStatement {
			return nil
		}
		var pid uint32
		if err := conn.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeExec).Scan(&pid); err != nil {
			return err
		}
		if pid == conn.PgConn().PID() {
			return nil
		}
		return fmt.Errorf("%w: the connection goes through a pooler, where prepared statements get lost: set default_query_exec_mode=cache_describe (or exec) in its connection string", outbox.ErrConfig)
	}
	switch {
	case d.sqlite():
		return nil
	case d.pool != nil:
		return d.pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error { return check(c.Conn()) })
	}
	conn, err := d.sql.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(raw any) error {
		if c, ok := raw.(interface{ Conn() *pgx.Conn }); ok {
			return check(c.Conn())
		}
		return nil
	})
}

// drop ends the idle connections if err says that theirs is a server that was read-only when they began: they stay so.
func (d database) drop(ctx context.Context, err error) {
	if sqltx.State(err) != sqltx.ReadOnly {
		return
	}
	if d.pool != nil {
		d.pool.Reset()
		return
	}
	for range d.sql.Stats().Idle {
		conn, err := d.sql.Conn(ctx)
		if err != nil {
			return
		}
		_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // which closes it
		_ = conn.Close()
	}
}

// Dialect tells sqltx, which an embedded Querier hides it from.
func (d database) Dialect() sqltx.Dialect { return d.dialect }

func (d database) sqlite() bool { return d.dialect == sqltx.SQLite }

// clock is the database's time of day.
func (d database) clock() string { return d.dialect.Clock() }

// later is the database's time of day plus a number of seconds, an expression.
func (d database) later(seconds string) string {
	if d.sqlite() {
		return "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', (" + seconds + ") || ' seconds')"
	}
	return "clock_timestamp() + make_interval(secs => " + seconds + ")"
}

// age is how many seconds ago a time was, an expression.
func (d database) age(at string) string {
	if d.sqlite() {
		return "(julianday('now') - julianday(" + at + ")) * 86400"
	}
	return "CAST(extract(epoch FROM clock_timestamp() - " + at + ") AS double precision)"
}

// random is a new token, an expression.
func (d database) random() string {
	if d.sqlite() {
		return "lower(hex(randomblob(16)))"
	}
	return "gen_random_uuid()"
}

// uuid casts an expression of text.
func (d database) uuid(text string) string {
	if d.sqlite() {
		return text
	}
	return "CAST(" + text + " AS uuid)"
}

// uuidType is what the database keeps ids as.
func (d database) uuidType() string {
	if d.sqlite() {
		return "text"
	}
	return "uuid"
}

// time is a time's argument, an expression; timeArg is what to send for it.
func (d database) time(arg string) string {
	if d.sqlite() {
		return arg
	}
	return "CAST(" + arg + " AS timestamptz)"
}

func (d database) timeArg(t time.Time) any {
	if d.sqlite() {
		return t.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	return t
}

// least is the lower of two expressions.
func (d database) least(a, b string) string {
	if d.sqlite() {
		return "min(" + a + ", " + b + ")"
	}
	return "least(" + a + ", " + b + ")"
}

// contains reports whether a text has another in it, letter by letter, an expression.
func (d database) contains(text, part string) string {
	if d.sqlite() {
		return "instr(" + text + ", " + part + ") > 0"
	}
	return "strpos(" + text + ", " + part + ") > 0"
}

// records are a JSON array of objects, an expression, as a relation of columns with their PostgreSQL types.
func (d database) records(array, alias string, columns ...[2]string) string {
	var list string
	for i, c := range columns {
		if i > 0 {
			list += ", "
		}
		if d.sqlite() {
			list += fmt.Sprintf("json_extract(value, '$.%s') AS %s", c[0], c[0])
		} else {
			list += c[0] + " " + c[1]
		}
	}
	if d.sqlite() {
		return fmt.Sprintf("(SELECT %s FROM json_each(%s)) AS %s", list, array, alias)
	}
	return fmt.Sprintf("json_to_recordset(CAST(%s AS json)) AS %s(%s)", array, alias, list)
}

// elements is a subselect of the elements of a JSON array, an expression, as values of an SQL type.
func (d database) elements(array, sqlType string) string {
	if d.sqlite() {
		return "SELECT value FROM json_each(" + array + ")"
	}
	return "SELECT CAST(element AS " + sqlType + ") FROM json_array_elements_text(CAST(" + array + " AS json)) AS element"
}

// skipLocked is what a subselect ends with that another session's locks mustn't stop.
func (d database) skipLocked() string {
	if d.sqlite() {
		return "" // one writer at a time
	}
	return " FOR UPDATE SKIP LOCKED"
}

// moment scans a time: SQLite has it as text. It stays zero for NULL.
type moment struct{ time.Time }

// Scan implements sql.Scanner.
func (m *moment) Scan(value any) (err error) {
	switch v := value.(type) {
	case nil:
		m.Time = time.Time{}
	case time.Time:
		m.Time = v.UTC()
	case string:
		m.Time, err = time.Parse(time.RFC3339Nano, v)
	case []byte:
		m.Time, err = time.Parse(time.RFC3339Nano, string(v))
	default:
		err = errors.New("a time is neither a timestamp nor text")
	}
	return err
}

// leniently is a moment that is zero, and invalid, where it can't be scanned, or where RFC 3339 can't write it.
type leniently struct {
	moment
	valid bool
}

// Scan implements sql.Scanner.
func (l *leniently) Scan(value any) error {
	if l.valid = l.moment.Scan(value) == nil && !l.IsZero() && l.Year() >= 1 && l.Year() <= 9999; !l.valid {
		l.Time = time.Time{}
	}
	return nil
}
