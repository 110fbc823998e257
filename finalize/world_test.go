package finalize_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// The combinations that every test of this package runs on, unless it says why not.
var (
	databases = []string{"pgx", "sql", "sqlite"} // PostgreSQL through New and through NewSQL, SQLite through NewSQL
	guards    = []string{"status", "ledger", "all", "own"}
)

// setup is what a test may change about its worlds.
type setup struct {
	databases, guards []string
	config            func(*finalize.Config)
	maxConns          int32
	params            map[string]string // connection parameters of PostgreSQL, for the finalizer's connections
	mode              pgx.QueryExecMode // for pgx
	tracer            pgx.QueryTracer   // for pgx
	journal           string            // for SQLite
	ownClock          bool              // the schema may have a clock_timestamp() of its own
	plain             bool              // no schema of its own
	tampered          bool              // the test itself breaks the invariants
	shared            bool              // other processes are at work: the parent looks at the end
	app               string            // application_name of the finalizer's connections, if not the world's own
}

type option func(*setup)

func on(names ...string) option       { return func(s *setup) { s.databases = names } }
func guardedBy(name ...string) option { return func(s *setup) { s.guards = name } }
func configured(f func(*finalize.Config)) option {
	return func(s *setup) {
		before := s.config
		s.config = func(c *finalize.Config) {
			if before != nil {
				before(c)
			}
			f(c)
		}
	}
}
func conns(n int32) option { return func(s *setup) { s.maxConns = n } }
func param(name, value string) option {
	return func(s *setup) { s.params[name] = value }
}
func tampered() option { return func(s *setup) { s.tampered = true } }

// each runs a test on every combination of database and guard.
func each(t *testing.T, run func(t *testing.T, w *world), options ...option) {
	t.Helper()
	s := newSetup(options)
	for _, server := range []string{"postgres", "sqlite"} {
		kinds := slices.DeleteFunc(slices.Clone(s.databases), func(kind string) bool {
			return (kind == "sqlite") != (server == "sqlite") || !dbtest.Serves(kind)
		})
		if len(kinds) == 0 {
			continue
		}
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			var url string
			if server == "postgres" {
				url = dbtest.Postgres(t)
			}
			for _, kind := range kinds {
				for _, g := range s.guards {
					t.Run(strings.TrimPrefix(kind+"/"+g, server+"/"), func(t *testing.T) {
						t.Parallel()
						dsn := url
						if kind == "sqlite" {
							dsn = dbtest.SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), s.journal)
						}
						run(t, newWorld(t, kind, g, dsn, options...))
					})
				}
			}
		})
	}
}

func newSetup(options []option) setup {
	s := setup{databases: databases, guards: guards, maxConns: 6, params: map[string]string{}, journal: "wal"}
	for _, o := range options {
		o(&s)
	}
	return s
}

// world is a service of one combination: its tables, its finalizer, and the test's own way to look at the database.
type world struct {
	door
	t               *testing.T
	database, guard string
	dsn             string
	db              *sql.DB // the test's own, apart from the finalizer's connections
	app             string  // application_name of the finalizer's connections
	schema          string
	pool            *pgxpool.Pool // the finalizer's, one of the two
	sqlDB           *sql.DB
	trace           *spy
	cfg             *finalize.Config
	another         func() door // a finalizer of its own on the same connections, as another process has one
}

// aggregate is the aggregate type of every world.
const aggregate = "batch"

// statusGuard guards the service's table.
func statusGuard() guard.Status {
	return guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")}
}

func guardNamed(name string, sqlite bool) guard.Guard {
	switch name {
	case "status":
		return statusGuard()
	case "ledger":
		return guard.Ledger{}
	case "all":
		return guard.All(statusGuard(), guard.Ledger{})
	}
	return ownGuard{sqlite: sqlite}
}

func newWorld(t *testing.T, database, g, dsn string, options ...option) *world {
	t.Helper()
	w := connect(t, database, g, dsn, "s"+uuid.NewString()[:8], options...)
	w.createTables()
	patience := w.cfg.ClaimTimeout
	w.cfg.ClaimTimeout = 0 // the usual one: what a test sets isn't meant for its first connections
	first := w.another()
	w.cfg.ClaimTimeout = patience
	require.NoError(t, first.migrate(t.Context()))
	require.NoError(t, first.check(t.Context()))
	return w
}

// connect opens the finalizer and the test's own connections.
func connect(t *testing.T, database, g, dsn, schema string, options ...option) *world {
	t.Helper()
	s := newSetup(options)
	w := &world{t: t, database: database, guard: g, dsn: dsn, schema: schema, app: "app" + schema, trace: new(spy)}
	cfg := &finalize.Config{Aggregate: aggregate, Guard: guardNamed(g, w.sqlite()), Trace: w.trace.hooks(), Logger: discard(),
		Cache: finalize.CacheConfig{Off: true}} // most tests look at what the database says, to repeats too
	if s.config != nil {
		s.config(cfg)
	}
	w.cfg = cfg
	if s.app != "" {
		w.app = s.app
	}
	own := []string{"application_name", "test" + schema}
	if !s.plain {
		if s.params["synchronous_commit"] == "" {
			s.params["synchronous_commit"] = "off" // no test here stops the server, and a flush takes longer than the rest
		}
		s.params["search_path"] = schema
		if s.ownClock {
			s.params["search_path"] += ",pg_catalog"
		}
		own = append(own, "search_path", schema, "synchronous_commit", "off")
	}
	if !w.sqlite() {
		w.db = dbtest.SQLOn(t, withParams(dsn, own...))
	} else {
		w.db = dbtest.SQLiteOn(t, dsn)
	}
	switch database {
	case "pgx":
		w.pool = dbtest.PoolOn(t, withParams(dsn, "application_name", w.app), func(c *pgxpool.Config) {
			c.MaxConns, c.ConnConfig.Tracer = s.maxConns, s.tracer
			if s.mode != 0 {
				c.ConnConfig.DefaultQueryExecMode = s.mode
			}
			for name, value := range s.params {
				c.ConnConfig.RuntimeParams[name] = value
			}
		})
		w.another = func() door {
			f, err := finalize.New(w.pool, cfg)
			require.NoError(t, err)
			return doorOf(f, func(tx pgx.Tx) endstate.Tx { return tx }, func(ctx context.Context, isolation string) (pgx.Tx, error) {
				return w.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.TxIsoLevel(isolation)})
			})
		}
	case "sql", "sqlite":
		wrap := endstate.SQLiteTx
		if database == "sql" {
			wrap = endstate.PostgresTx
			params := []string{"application_name", w.app}
			for name, value := range s.params {
				params = append(params, name, value)
			}
			w.sqlDB = dbtest.SQLOn(t, withParams(dsn, params...))
		} else {
			w.sqlDB = dbtest.SQLiteOn(t, dsn)
		}
		w.sqlDB.SetMaxOpenConns(int(s.maxConns))
		w.another = func() door {
			f, err := finalize.NewSQL(w.sqlDB, cfg)
			require.NoError(t, err)
			return doorOf(f, func(tx *sql.Tx) endstate.Tx { return wrap(tx) }, func(ctx context.Context, isolation string) (*sql.Tx, error) {
				levels := map[string]sql.IsolationLevel{"repeatable read": sql.LevelRepeatableRead, "serializable": sql.LevelSerializable}
				return w.sqlDB.BeginTx(ctx, &sql.TxOptions{Isolation: levels[isolation]})
			})
		}
	}
	w.door = w.another()
	begin := w.begin
	w.begin = func(ctx context.Context, isolation string) (*callersTx, error) {
		tx, err := begin(ctx, isolation)
		if err == nil {
			t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }) // for a test that fails midway
		}
		return tx, err
	}
	t.Cleanup(func() {
		if s.shared {
			return
		}
		w.requireNothingHeld()
		if !s.tampered && !t.Failed() {
			w.requireInvariants()
		}
	})
	return w
}

func withParams(dsn string, pairs ...string) string {
	for i := 0; i < len(pairs); i += 2 {
		sep := "&"
		if !strings.Contains(dsn, "?") {
			sep = "?"
		}
		dsn += sep + pairs[i] + "=" + strings.ReplaceAll(pairs[i+1], " ", "%20")
	}
	return dsn
}

func (w *world) sqlite() bool { return w.database == "sqlite" }

// hasLedger reports whether receipts have provenance.
func (w *world) hasLedger() bool { return w.guard == "ledger" || w.guard == "all" }

// hasStatus reports whether the service's status column is what the guard looks at.
func (w *world) hasStatus() bool { return w.guard != "ledger" }

// createTables makes the service's tables. A trigger in the database records every change of a status: what invariant I1 is
// checked on. It is a BEFORE trigger and the last of them: an AFTER trigger would make every call look at its row again.
func (w *world) createTables() {
	statements := []string{
		`CREATE TABLE batches (id text PRIMARY KEY, status text, note text, touched timestamptz)`,
		`CREATE TABLE writes (batch text, note text)`,
		`CREATE TABLE transitions (id text, old text, new text)`,
	}
	if w.sqlite() {
		statements = append(statements,
			`CREATE TRIGGER record AFTER UPDATE OF status ON batches BEGIN INSERT INTO transitions VALUES (new.id, old.status, new.status); END`)
	} else {
		if w.schema != "" {
			statements = append([]string{"CREATE SCHEMA IF NOT EXISTS " + w.schema}, statements...)
		}
		statements = append(statements,
			`CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO transitions VALUES (new.id, old.status, new.status); RETURN new; END $$`,
			`CREATE TRIGGER zz_record BEFORE UPDATE OF status ON batches FOR EACH ROW EXECUTE FUNCTION record()`)
	}
	w.exec(strings.Join(statements, ";\n"))
}

// exec runs a statement as somebody else than the finalizer.
func (w *world) exec(query string, args ...any) {
	w.t.Helper()
	_, err := w.db.ExecContext(context.WithoutCancel(w.t.Context()), query, args...)
	require.NoError(w.t, err)
}

// text reads one column of text.
func (w *world) text(query string, args ...any) []string {
	w.t.Helper()
	rows, err := w.db.QueryContext(context.WithoutCancel(w.t.Context()), query, args...)
	require.NoError(w.t, err)
	defer rows.Close()
	list := []string{}
	for rows.Next() {
		var s sql.NullString
		require.NoError(w.t, rows.Scan(&s))
		list = append(list, s.String)
	}
	require.NoError(w.t, rows.Err())
	return list
}

func (w *world) count(query string, args ...any) int {
	w.t.Helper()
	var n int
	require.NoError(w.t, w.db.QueryRowContext(context.WithoutCancel(w.t.Context()), query, args...).Scan(&n))
	return n
}

// open adds open batches and returns the key of the first.
func (w *world) open(ids ...string) guard.Key {
	w.t.Helper()
	for chunk := range slices.Chunk(ids, 500) {
		w.exec("INSERT INTO batches (id, status) VALUES ('" + strings.Join(chunk, "', 'PENDING'), ('") + "', 'PENDING')")
	}
	return guard.Text(ids[0])
}

// state is the terminal state that the guard has committed, or "".
func (w *world) state(id string) string {
	w.t.Helper()
	var states []string
	if w.hasStatus() {
		states = w.text("SELECT status FROM batches WHERE id = $1 AND (status LIKE 'COMPLETE%' OR status LIKE 'ERROR%')", id)
	}
	if w.hasLedger() {
		ledger := w.text(`SELECT state FROM endstate_ledger WHERE aggregate = $1 AND "key" = $2`, aggregate, guard.Text(id).Encode())
		if w.guard == "all" {
			require.Equal(w.t, ledger, states, "status and ledger of %s", id)
		}
		states = ledger
	}
	return strings.Join(states, ",")
}

// events are the types of the events of a batch, in order.
func (w *world) events(id string) []string {
	w.t.Helper()
	return w.text("SELECT type FROM endstate_outbox WHERE aggregate_type = $1 AND aggregate_id = $2 ORDER BY seq", aggregate, id)
}

func (w *world) writes(id string) int {
	w.t.Helper()
	return w.count("SELECT count(*) FROM writes WHERE batch = $1", id)
}
