package inbox_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/inbox/inboxredis"
)

// The ways to a database, and the ways to handle an event once.
var (
	databases = []string{"pgx", "sql", "sqlite"}
	ways      = []string{"table", "status", "redis"}
)

// work is a TxFunc over whichever transaction a database has. With Redis there is none, and tx works on the database itself.
type work func(ctx context.Context, tx endstate.Querier, event outbox.Event) error

// consumer is a consumer of one way on one database, whose effect is a row of the table credits.
type consumer struct {
	t        testing.TB
	database string
	dsn      string
	redisURL string
	db       *sql.DB // the test's own connections
	pool     *pgxpool.Pool
	sqlDB    *sql.DB

	table tableOf // where the way is table
	way   func(fn work) inbox.Handler
}

// tableOf is a Table of either kind of transaction.
type tableOf struct {
	results func(fn func(ctx context.Context, tx endstate.Querier, event outbox.Event) ([]byte, error)) inbox.Handler
	retry   func(ctx context.Context, key string, fn work) (inbox.Result, error)
	letters func(ctx context.Context, limit int) ([]inbox.DeadLetter, error)
	discard func(ctx context.Context, key string) error
	clean   func(ctx context.Context) (int64, error)
	migrate func(ctx context.Context) error
	check   func(ctx context.Context) error
}

// setup is what a test may change about its consumer.
type setup struct {
	table    inbox.TableConfig
	claims   inbox.ClaimsConfig
	maxConns int32
	unpinged bool
	via      func(url string) string // another way to the database, for the consumer alone
	bare     bool                    // no tables
}

type option func(*setup)

func tableConfig(f func(*inbox.TableConfig)) option   { return func(s *setup) { f(&s.table) } }
func claimsConfig(f func(*inbox.ClaimsConfig)) option { return func(s *setup) { f(&s.claims) } }

// eachTable runs a test on a Table on each database.
func eachTable(t *testing.T, run func(t *testing.T, c *consumer), options ...option) {
	t.Helper()
	url := dbtest.Postgres(t)
	for _, database := range databases {
		if !dbtest.Serves(database) {
			continue
		}
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			run(t, newConsumerOn(t, "table", database, url, options...))
		})
	}
}

// eachWay runs a test on each way on each database.
func eachWay(t *testing.T, run func(t *testing.T, c *consumer, way string), options ...option) {
	t.Helper()
	url := dbtest.Postgres(t)
	for _, way := range ways {
		for _, database := range databases {
			if !dbtest.Serves(database) {
				continue
			}
			t.Run(way+"/"+database, func(t *testing.T) {
				t.Parallel()
				run(t, newConsumerOn(t, way, database, url, options...), way)
			})
		}
	}
}

// newConsumer makes a consumer on a new database.
func newConsumer(t testing.TB, way, database string, options ...option) *consumer {
	t.Helper()
	url := ""
	if database != "sqlite" {
		url = dbtest.Postgres(t)
	}
	return newConsumerOn(t, way, database, url, options...)
}

// newConsumerOn makes a consumer on a schema of its own in the PostgreSQL database at url, or on a new SQLite database.
func newConsumerOn(t testing.TB, way, database, url string, options ...option) *consumer {
	t.Helper()
	dsn, redisURL := "", ""
	if database == "sqlite" {
		dsn = dbtest.SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), "wal") + "&_pragma=synchronous(off)"
	} else {
		schema := "s" + uuid.NewString()[:8]
		_, err := dbtest.SQLOn(t, url).ExecContext(t.Context(), "CREATE SCHEMA "+schema)
		require.NoError(t, err)
		dsn = url + "&search_path=" + schema + "&synchronous_commit=off" // no test here stops the server
	}
	if way == "redis" {
		redisURL = dbtest.RedisURL(t)
	}
	return connect(t, way, database, dsn, redisURL, options...)
}

// connect makes a consumer on a database, with its tables unless they are there.
func connect(t testing.TB, way, database, dsn, redisURL string, options ...option) *consumer {
	t.Helper()
	s := setup{
		table:    inbox.TableConfig{Consumer: "entitlements", Logger: discard()},
		claims:   inbox.ClaimsConfig{Consumer: "entitlements", Logger: discard()},
		maxConns: 4,
		via:      func(url string) string { return url },
	}
	for _, o := range options {
		o(&s)
	}
	c := &consumer{t: t, database: database, dsn: dsn, redisURL: redisURL}
	if database == "sqlite" {
		c.db = dbtest.SQLiteOn(t, dsn)
	} else {
		c.db = dbtest.SQLOn(t, dsn)
	}
	if database == "pgx" {
		c.pool = dbtest.PoolOn(t, s.via(dsn), func(cfg *pgxpool.Config) {
			if cfg.MaxConns = s.maxConns; s.unpinged {
				cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
			}
		})
	} else if database == "sql" {
		c.sqlDB = dbtest.SQLOn(t, s.via(dsn))
		c.sqlDB.SetMaxOpenConns(int(s.maxConns))
	} else {
		c.sqlDB = dbtest.SQLiteOn(t, dsn)
	}
	if !s.bare {
		serial := map[bool]string{true: "INTEGER PRIMARY KEY", false: "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"}[c.sqlite()]
		c.exec(`CREATE TABLE IF NOT EXISTS credits (id ` + serial + `, event text NOT NULL, batch text NOT NULL)`)
		c.exec(`CREATE TABLE IF NOT EXISTS batches (id text PRIMARY KEY, status text NOT NULL)`)
		c.exec(`INSERT INTO batches VALUES ('batch-1', 'PENDING') ON CONFLICT DO NOTHING`)
	}
	switch way {
	case "table":
		c.byTable(&s)
	case "status":
		c.byStatus()
	case "redis":
		c.byRedis(&s)
	}
	return c
}

func (c *consumer) sqlite() bool { return c.database == "sqlite" }

func (c *consumer) byTable(s *setup) {
	if c.pool != nil {
		table, err := inbox.NewTable(c.pool, &s.table)
		require.NoError(c.t, err)
		c.way, c.table = doorOf(table, func(tx pgx.Tx) endstate.Querier { return tx })
	} else {
		table, err := inbox.NewTableSQL(c.sqlDB, &s.table)
		require.NoError(c.t, err)
		c.way, c.table = doorOf(table, c.wrap)
	}
	if !s.bare {
		require.NoError(c.t, c.table.migrate(context.Background()))
		require.NoError(c.t, c.table.check(context.Background()))
	}
}

// wrap makes a Querier of a *sql.Tx.
func (c *consumer) wrap(tx *sql.Tx) endstate.Querier {
	if c.sqlite() {
		return endstate.SQLiteTx(tx)
	}
	return endstate.PostgresTx(tx)
}

func doorOf[Tx any](table *inbox.Table[Tx], wrap func(Tx) endstate.Querier) (func(work) inbox.Handler, tableOf) {
	adapt := func(fn work) inbox.TxFunc[Tx] {
		if fn == nil {
			return nil
		}
		return func(ctx context.Context, tx Tx, event outbox.Event) error { return fn(ctx, wrap(tx), event) }
	}
	return func(fn work) inbox.Handler { return inbox.Handle(table, adapt(fn)) }, tableOf{
		results: func(fn func(context.Context, endstate.Querier, outbox.Event) ([]byte, error)) inbox.Handler {
			return inbox.Handle(table.Results(), func(ctx context.Context, tx Tx, event outbox.Event) ([]byte, error) {
				return fn(ctx, wrap(tx), event)
			})
		},
		retry: func(ctx context.Context, key string, fn work) (inbox.Result, error) {
			return table.Retry(ctx, key, adapt(fn))
		},
		letters: table.DeadLetters,
		discard: table.Discard,
		clean:   table.Clean,
		migrate: table.Migrate,
		check:   table.Check,
	}
}

// byStatus leaves it to the status of the batch, through a finalizer with a ledger.
func (c *consumer) byStatus() {
	cfg := &finalize.Config{Aggregate: "batch", Logger: discard(), Guard: guard.All(
		guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE")}, guard.Ledger{})}
	if c.pool != nil {
		fin, err := finalize.New(c.pool, cfg)
		require.NoError(c.t, err)
		c.way = statusOf(c.t, fin, func(tx pgx.Tx) endstate.Querier { return tx })
		return
	}
	fin, err := finalize.NewSQL(c.sqlDB, cfg)
	require.NoError(c.t, err)
	c.way = statusOf(c.t, fin, c.wrap)
}

func statusOf[Tx any](t testing.TB, fin *finalize.Finalizer[Tx], wrap func(Tx) endstate.Querier) func(work) inbox.Handler {
	require.NoError(t, fin.Migrate(context.Background()))
	status := inbox.Status[Tx](func(ctx context.Context, event outbox.Event, cause string, effect func(context.Context, Tx) error) (bool, string, error) {
		receipt, err := fin.Do(ctx, guard.Text(event.AggregateID), finalize.Trigger(cause), func(ctx context.Context, tx Tx) (finalize.Outcome, error) {
			return finalize.Outcome{State: "COMPLETE"}, effect(ctx, tx)
		})
		return receipt.Won, string(receipt.Trigger), err
	})
	return func(fn work) inbox.Handler {
		return inbox.Handle(status, func(ctx context.Context, tx Tx, event outbox.Event) error { return fn(ctx, wrap(tx), event) })
	}
}

func (c *consumer) byRedis(s *setup) {
	store, err := inboxredis.New(dbtest.RedisOn(c.t, c.redisURL), "")
	require.NoError(c.t, err)
	way, err := inbox.NewClaims(store, &s.claims)
	require.NoError(c.t, err)
	var q endstate.Querier = c.pool
	if c.pool == nil {
		q = sqltx.WrapDB(c.sqlDB, map[bool]sqltx.Dialect{true: sqltx.SQLite, false: sqltx.Postgres}[c.sqlite()])
	}
	c.way = func(fn work) inbox.Handler {
		return inbox.Handle(way, func(ctx context.Context, event outbox.Event) error { return fn(ctx, q, event) })
	}
}

// event is a valid event about batch-1.
func event() outbox.Event {
	return outbox.Event{ID: uuid.New(), AggregateType: "batch", AggregateID: "batch-1", Type: "assessment.completed", Payload: []byte(`{"credits":5}`)}
}

// charge is the effect of an event. It may happen twice, as far as the database is concerned.
func charge(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
	_, err := tx.Exec(ctx, `INSERT INTO credits (event, batch) VALUES ($1, $2)`, event.ID.String(), event.AggregateID)
	return err
}

// credits is how many effects there are.
func (c *consumer) credits() int { return c.count(`SELECT count(*) FROM credits`) }

func (c *consumer) count(query string, args ...any) int {
	c.t.Helper()
	var n int
	require.NoError(c.t, c.db.QueryRowContext(context.Background(), query, args...).Scan(&n))
	return n
}

func (c *consumer) exec(query string, args ...any) {
	c.t.Helper()
	_, err := c.db.ExecContext(context.Background(), query, args...)
	require.NoError(c.t, err)
}

// text is a query's one value, "" for NULL.
func (c *consumer) text(query string, args ...any) string {
	c.t.Helper()
	var s sql.NullString
	require.NoError(c.t, c.db.QueryRowContext(context.Background(), query, args...).Scan(&s))
	return s.String
}

// eventually waits until cond holds, at most ten seconds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, time.Minute, 5*time.Millisecond, what)
}
