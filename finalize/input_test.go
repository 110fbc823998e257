package finalize_test

import (
	"context"
	"database/sql"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/outbox"
)

func TestConfigErrorsNameTheField(t *testing.T) {
	good := func() *finalize.Config { return &finalize.Config{Aggregate: "batch", Guard: statusGuard()} }
	lite := dbtest.SQLite(t)
	for name, tt := range map[string]struct {
		change func(*finalize.Config)
		want   string
	}{
		"no aggregate":       {func(c *finalize.Config) { c.Aggregate = "" }, "Aggregate is empty"},
		"long aggregate":     {func(c *finalize.Config) { c.Aggregate = strings.Repeat("a", 201) }, "Aggregate is 201 bytes long"},
		"NUL in aggregate":   {func(c *finalize.Config) { c.Aggregate = "a\x00" }, "Aggregate contains a NUL byte"},
		"invalid UTF-8":      {func(c *finalize.Config) { c.Aggregate = "\xff" }, "Aggregate is not valid UTF-8"},
		"no guard":           {func(c *finalize.Config) { c.Guard = nil }, "Guard is nil"},
		"nil pointer":        {func(c *finalize.Config) { c.Guard = (*guard.Status)(nil) }, "Guard is nil"},
		"nil pointer in All": {func(c *finalize.Config) { c.Guard = guard.All((*guard.Ledger)(nil)) }, "guard 1 of All is nil"},
		"nil function":       {func(c *finalize.Config) { c.Lock.Locker = lockFunc(nil) }, "Lock.Locker is a nil finalize_test.lockFunc"},
		"nil guard in All":   {func(c *finalize.Config) { c.Guard = guard.All(statusGuard(), nil) }, "guard 2 of All is nil"},
		"All of none":        {func(c *finalize.Config) { c.Guard = guard.All() }, "All has no guards"},
		"no terminal states": {func(c *finalize.Config) { c.Guard = guard.Status{Table: "t", Key: "k", Column: "c"} }, "Status.Terminal has no terminal states"},
		"no table":           {func(c *finalize.Config) { c.Guard = guard.Status{Key: "k", Column: "c", Terminal: guard.Names("X")} }, "Status.Table is empty"},
		"long outbox table":  {func(c *finalize.Config) { c.Outbox.Table = strings.Repeat("t", 64) }, "Outbox"},
		"payload limit":      {func(c *finalize.Config) { c.Outbox.MaxPayload = -1 }, "MaxPayload is -1"},
		"dialect":            {func(c *finalize.Config) { c.Dialect = "oracle" }, `Dialect is "oracle"`},
		"claim timeout":      {func(c *finalize.Config) { c.ClaimTimeout = -time.Second }, "ClaimTimeout is negative"},
		"attempts":           {func(c *finalize.Config) { c.MaxAttempts = -1 }, "MaxAttempts is negative"},
		"resolve timeout":    {func(c *finalize.Config) { c.ResolveTimeout = -1 }, "ResolveTimeout is negative"},
		"lock timeout":       {func(c *finalize.Config) { c.Lock.Timeout = -1 }, "Lock.Timeout is negative"},
		"nil lock":           {func(c *finalize.Config) { c.Lock.Locker = (*lock.Local)(nil) }, "Lock.Locker is a nil *lock.Local"},
		"contention":         {func(c *finalize.Config) { c.Lock.OnContention = 7 }, "Lock.OnContention is neither"},
		"contention, no try": {func(c *finalize.Config) {
			c.Lock.OnContention, c.Lock.Locker = finalize.ReturnInProgress, lockFunc(func(context.Context, string, func(context.Context) error) error { return nil })
		}, "Lock.Locker (finalize_test.lockFunc) has no method Try"},
		"contention, alone": {func(c *finalize.Config) { c.Lock.OnContention = finalize.ReturnInProgress }, "Lock.Locker (<nil>) has no method Try"},
		"lock failure":      {func(c *finalize.Config) { c.Lock.OnFailure = -1 }, "Lock.OnFailure is neither"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good()
			tt.change(cfg)
			_, err := finalize.NewSQL(lite, cfg)
			require.ErrorIs(t, err, finalize.ErrConfig)
			require.ErrorContains(t, err, tt.want)
			_, err = finalize.New(&pgxpool.Pool{}, cfg)
			require.ErrorContains(t, err, tt.want)
		})
	}
	_, err := finalize.New(nil, good())
	require.ErrorContains(t, err, "pool is nil")
	_, err = finalize.NewSQL(nil, good())
	require.ErrorContains(t, err, "db is nil")
	_, err = finalize.NewSQL(lite, nil)
	require.ErrorContains(t, err, "Config is nil")
	sqliteOnPgx := good()
	sqliteOnPgx.Dialect = "sqlite"
	_, err = finalize.New(&pgxpool.Pool{}, sqliteOnPgx)
	require.ErrorContains(t, err, "use NewSQL")
}

// F23: hostile keys, triggers, outcomes and events.
func TestBadInputWritesNothing(t *testing.T) {
	event := func(change func(*outbox.Event)) finalize.Outcome {
		e := outbox.Event{Type: "done", Payload: []byte(`{}`)}
		change(&e)
		return finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{e}}
	}
	good := event(func(*outbox.Event) {})
	twice := good
	twice.Events = append(twice.Events[:1:1], outbox.Event{Type: "done", Payload: []byte(`1`)})
	key := guard.Text("b")
	each(t, func(t *testing.T, w *world) {
		w.open("b")
		for name, tt := range map[string]struct {
			key     guard.Key
			trigger finalize.Trigger
			out     finalize.Outcome
			want    string
			is      error
		}{
			"zero key":             {guard.Key{}, "t", good, "key", guard.ErrInvalidKey},
			"empty key":            {guard.Text(""), "t", good, "key", guard.ErrInvalidKey},
			"long key":             {guard.Text(strings.Repeat("k", 10<<10)), "t", good, "key", guard.ErrInvalidKey},
			"NUL in key":           {guard.Text("b\x00"), "t", good, "key", guard.ErrInvalidKey},
			"invalid UTF-8 in key": {guard.Text("\xffb"), "t", good, "key", guard.ErrInvalidKey},
			"no trigger":           {key, "", good, "trigger is empty", nil},
			"long trigger":         {key, finalize.Trigger(strings.Repeat("t", 201)), good, "trigger is 201 bytes long", nil},
			"NUL in trigger":       {key, "a\x00", good, "trigger contains a NUL byte", nil},
			"no state":             {key, "t", finalize.Outcome{}, "Outcome.State", guard.ErrNotTerminal},
			"NUL in state":         {key, "t", finalize.Outcome{State: "COMPLETE\x00"}, "Outcome.State", guard.ErrNotTerminal},
			"no type":              {key, "t", event(func(e *outbox.Event) { e.Type = "" }), "Type", outbox.ErrInvalidEvent},
			"NUL in type":          {key, "t", event(func(e *outbox.Event) { e.Type = "a\x00" }), "Type", outbox.ErrInvalidEvent},
			"invalid header":       {key, "t", event(func(e *outbox.Event) { e.Headers = map[string]string{"h": "\xff"} }), "Headers", outbox.ErrInvalidEvent},
			"not JSON":             {key, "t", event(func(e *outbox.Event) { e.Payload = []byte(`{`) }), "Payload is not valid JSON", outbox.ErrInvalidEvent},
			"NUL in JSON":          {key, "t", event(func(e *outbox.Event) { e.Payload = []byte("\x00") }), "Payload", outbox.ErrInvalidEvent},
			"long payload":         {key, "t", event(func(e *outbox.Event) { e.Payload = []byte(`"` + strings.Repeat("x", 1<<20) + `"`) }), "Payload", outbox.ErrInvalidEvent},
			"long dedup key":       {key, "t", event(func(e *outbox.Event) { e.DedupKey = strings.Repeat("d", 3000) }), "DedupKey", outbox.ErrInvalidEvent},
			"one type twice":       {key, "t", twice, "DedupKey", outbox.ErrDuplicate},
		} {
			t.Run(name, func(t *testing.T) {
				_, err := w.settle(t.Context(), tt.key, tt.trigger, tt.out)
				require.ErrorContains(t, err, tt.want)
				_, err = w.do(t.Context(), tt.key, tt.trigger, func(context.Context, endstate.Tx) (finalize.Outcome, error) { return tt.out, nil })
				require.ErrorContains(t, err, tt.want)
				if tt.is != nil {
					require.ErrorIs(t, err, tt.is)
				}
				w.requireOpen("b")
			})
		}
		_, err := w.do(t.Context(), key, "t", nil)
		require.ErrorContains(t, err, "fn is nil")
		if w.guard == "status" || w.guard == "all" {
			_, err := w.settle(t.Context(), key, "t", finalize.Outcome{State: "PENDING"})
			require.ErrorIs(t, err, guard.ErrNotTerminal)
			_, err = w.settle(t.Context(), guard.Composite(key, guard.Int(1)), "t", good)
			require.ErrorIs(t, err, guard.ErrInvalidKey)
			require.ErrorContains(t, err, "key columns")
		}
		if w.guard == "status" && !w.sqlite() {
			_, err := w.settle(t.Context(), guard.Int(1), "t", good)
			require.ErrorContains(t, err, "42883", "an integer for a text column")
		}
		w.requireOpen("b")
		r, err := w.settle(t.Context(), key, "t", good)
		require.NoError(t, err)
		require.True(t, r.Won, "nothing was lost")
	})
}

// F21: a table or a column is missing.
func TestMissingTablesAreNamed(t *testing.T) {
	lite := dbtest.SQLite(t)
	pool := dbtest.Pool(t)
	for _, statement := range []string{`CREATE TABLE batches (id text PRIMARY KEY, status text)`, `INSERT INTO batches VALUES ('b', 'PENDING')`} {
		_, err := lite.Exec(statement)
		require.NoError(t, err)
		_, err = pool.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	out := finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "done", Payload: []byte(`1`)}}}
	for _, tt := range []struct {
		name  string
		guard guard.Guard
		want  []string
		is    error
	}{
		{"ledger and outbox", guard.All(statusGuard(), guard.Ledger{}), []string{`"endstate_ledger" does not exist`, "_endstate_ledger", `"endstate_outbox" does not exist`, "_endstate_relay"}, guard.ErrSchema},
		{"outbox", statusGuard(), []string{`"endstate_outbox" does not exist`, "_endstate_relay"}, outbox.ErrSchema},
		{"the service's table", guard.Status{Table: "nothing", Key: "id", Column: "status", Terminal: guard.Names("COMPLETE")}, []string{`"nothing" does not exist`}, guard.ErrSchema},
		{"the service's column", guard.Status{Table: "batches", Key: "id", Column: "nothing", Terminal: guard.Names("COMPLETE")}, []string{`no column "nothing"`}, guard.ErrSchema},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := &finalize.Config{Aggregate: "batch", Guard: tt.guard, Logger: discard()}
			onPgx, err := finalize.New(pool, cfg)
			require.NoError(t, err)
			onSQLite, err := finalize.NewSQL(lite, cfg)
			require.NoError(t, err)
			for name, err := range map[string]error{
				"pgx": func() error { _, err := onPgx.Settle(t.Context(), guard.Text("b"), "t", out); return err }(),
				"pgx do": func() error {
					_, err := onPgx.Do(t.Context(), guard.Text("b"), "t", func(context.Context, pgx.Tx) (finalize.Outcome, error) { return out, nil })
					return err
				}(),
				"sqlite": func() error {
					_, err := onSQLite.Do(t.Context(), guard.Text("b"), "t", func(context.Context, *sql.Tx) (finalize.Outcome, error) { return out, nil })
					return err
				}(),
				"pgx check":    onPgx.Check(t.Context()),
				"sqlite check": onSQLite.Check(t.Context()),
			} {
				require.ErrorIs(t, err, tt.is, name)
				for _, want := range tt.want {
					require.ErrorContains(t, err, want, name)
				}
			}
		})
	}
	var status string
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT status FROM batches`).Scan(&status))
	require.Equal(t, "PENDING", status)
	require.NoError(t, lite.QueryRow(`SELECT status FROM batches`).Scan(&status))
	require.Equal(t, "PENDING", status)
}

// Names of every kind, and a schema that isn't there yet.
func TestRenamedTables(t *testing.T) {
	hostile := `Odd "name"; DROP TABLE x --`
	pool := dbtest.Pool(t)
	_, err := pool.Exec(t.Context(), `CREATE SCHEMA "My App"; CREATE TABLE "My App"."Bat""ches" ("The Id" text PRIMARY KEY, "STATUS'" text); INSERT INTO "My App"."Bat""ches" VALUES ('b', NULL)`)
	require.NoError(t, err)
	fin, err := finalize.New(pool, &finalize.Config{
		Aggregate: "batch",
		Guard: guard.All(
			guard.Status{Schema: "My App", Table: `Bat"ches`, Key: "The Id", Column: "STATUS'", Terminal: guard.Names(`it's \done`)},
			guard.Ledger{Schema: "new schema", Table: hostile},
		),
		Outbox: outbox.Writer{Schema: "new schema", Table: "Events"},
		Logger: discard(),
	})
	require.NoError(t, err)
	require.NoError(t, fin.Migrate(t.Context()))
	require.NoError(t, fin.Migrate(t.Context()), "again")
	require.NoError(t, fin.Check(t.Context()))
	r, err := fin.Settle(t.Context(), guard.Text("b"), "t", finalize.Outcome{State: `it's \done`, Events: []outbox.Event{{Type: "e", Payload: []byte(`1`)}}})
	require.NoError(t, err)
	require.True(t, r.Won)
	var n int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM "new schema"."Events", "new schema".`+pgx.Identifier{hostile}.Sanitize()).Scan(&n))
	require.Equal(t, 1, n)
}

// F22: every way in which pgx sends queries, and PgBouncer.
func TestQueryModes(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			each(t, callsOfEveryKind, on("pgx"), func(s *setup) { s.mode = mode })
			if !dbtest.Serves("pgx") {
				return // another driver knows no such mode
			}
			each(t, callsOfEveryKind, on("sql"), param("default_query_exec_mode", strings.ReplaceAll(mode.String(), " ", "_")))
		})
	}
}

func callsOfEveryKind(t *testing.T, w *world) {
	several := completed()
	for _, more := range []string{"b", "c", "d", "e", "f"} {
		several.Events = append(several.Events, outbox.Event{Type: more, Payload: []byte(`"` + more + `"`), Headers: map[string]string{"h": more}})
	}
	for i, out := range []finalize.Outcome{completed(), several, quietly()} {
		key := w.open("do" + string(rune('0'+i)))
		for _, wins := range []bool{true, false} {
			r, err := w.do(t.Context(), key, "t", func(context.Context, endstate.Tx) (finalize.Outcome, error) { return out, nil })
			require.NoError(t, err)
			require.Equal(t, wins, r.Won)
			require.Equal(t, out.State, r.State)
		}
		key = w.open("settle" + string(rune('0'+i)))
		for _, wins := range []bool{true, false} {
			r, err := w.settle(t.Context(), key, "t", out)
			require.NoError(t, err)
			require.Equal(t, wins, r.Won)
		}
	}
	key := w.open("tx")
	tx, err := w.begin(t.Context(), "")
	require.NoError(t, err)
	r, err := tx.doTx(t.Context(), key, "t", complete("tx"))
	require.NoError(t, err)
	require.True(t, r.Won)
	require.NoError(t, tx.Commit(t.Context()))
}

// F22: through PgBouncer in transaction mode.
func TestThroughPgBouncer(t *testing.T) {
	if !dbtest.Serves("pgx") {
		return // it is about pgx's modes
	}
	url := dbtest.Postgres(t)
	direct := dbtest.PoolOn(t, url)
	_, err := direct.Exec(t.Context(), `CREATE TABLE batches (id text PRIMARY KEY, status text); INSERT INTO batches SELECT n, 'PENDING' FROM generate_series(1, 40) n`)
	require.NoError(t, err)
	bouncer := dbtest.StartPgBouncer(t, url, "default_pool_size = 3")
	pool := dbtest.PoolOn(t, bouncer.URL(), func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec })
	db := dbtest.SQLOn(t, withParams(bouncer.URL(), "default_query_exec_mode", "exec"))
	require.NoError(t, pool.AcquireFunc(t.Context(), func(c *pgxpool.Conn) error {
		var pid uint32
		err := c.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&pid)
		require.NotEqual(t, c.Conn().PgConn().PID(), pid, "a pooler is in between")
		return err
	}))
	out := finalize.Outcome{State: "COMPLETE"}
	for _, g := range []guard.Guard{statusGuard(), guard.Ledger{}} {
		cfg := &finalize.Config{Aggregate: "batch", Guard: g, Logger: discard()}
		onPGX, err := finalize.New(pool, cfg)
		require.NoError(t, err)
		require.NoError(t, onPGX.Migrate(t.Context()))
		onSQL, err := finalize.NewSQL(db, cfg)
		require.NoError(t, err)
		calls := []func(key guard.Key) (finalize.Receipt, error){
			func(key guard.Key) (finalize.Receipt, error) {
				return onPGX.Do(context.Background(), key, "t", func(context.Context, pgx.Tx) (finalize.Outcome, error) { return out, nil })
			},
			func(key guard.Key) (finalize.Receipt, error) {
				return onSQL.Do(context.Background(), key, "t", func(context.Context, *sql.Tx) (finalize.Outcome, error) { return out, nil })
			},
			func(key guard.Key) (finalize.Receipt, error) {
				return onPGX.Settle(context.Background(), key, "t", out)
			},
			func(key guard.Key) (finalize.Receipt, error) {
				return onSQL.Settle(context.Background(), key, "t", out)
			},
		}
		type result struct {
			finalize.Receipt
			error
		}
		results := make(chan result)
		for i := range 2 * len(calls) {
			go func() {
				for n := range 40 {
					r, err := calls[i%len(calls)](guard.Text(strconv.Itoa(n + 1)))
					results <- result{r, err}
				}
			}()
		}
		wins := 0
		for range 2 * len(calls) * 40 {
			r := <-results
			require.NoError(t, r.error)
			require.Equal(t, "COMPLETE", r.State)
			if r.Won {
				wins++
			}
		}
		require.Equal(t, 40, wins)
	}
}

// Where a transaction is wanted a pool doesn't compile: it isn't one to the compiler.
func TestAPoolIsNoTransaction(t *testing.T) {
	tx := reflect.TypeFor[endstate.Tx]()
	require.True(t, reflect.TypeFor[pgx.Tx]().Implements(tx))
	require.True(t, reflect.TypeFor[*pgxpool.Tx]().Implements(reflect.TypeFor[pgx.Tx]()))
	for _, other := range []reflect.Type{reflect.TypeFor[*pgxpool.Pool](), reflect.TypeFor[*pgxpool.Conn](), reflect.TypeFor[*pgx.Conn](), reflect.TypeFor[*sql.DB](), reflect.TypeFor[*sql.Conn]()} {
		require.False(t, other.Implements(tx), "%v", other)
		require.False(t, other.Implements(reflect.TypeFor[endstate.Tx]()), "%v", other)
		require.False(t, other.Implements(reflect.TypeFor[pgx.Tx]()), "%v", other)
		require.False(t, other.AssignableTo(reflect.TypeFor[*sql.Tx]()), "%v", other)
	}
}

func TestDoTxInNoTransaction(t *testing.T) {
	cfg := &finalize.Config{Aggregate: "batch", Guard: statusGuard(), Logger: discard()}
	onSQLite, err := finalize.NewSQL(dbtest.SQLite(t), cfg)
	require.NoError(t, err)
	_, err = onSQLite.DoTx(t.Context(), nil, guard.Text("b"), "t", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
		return completed(), errors.New("the callback ran")
	})
	require.ErrorContains(t, err, "tx is nil")
	onPgx, err := finalize.New(dbtest.PoolOn(t, "postgres://127.0.0.1:1/x"), cfg)
	require.NoError(t, err)
	_, err = onPgx.DoTx(t.Context(), nil, guard.Text("b"), "t", func(context.Context, pgx.Tx) (finalize.Outcome, error) {
		return completed(), errors.New("the callback ran")
	})
	require.ErrorContains(t, err, "tx is nil")
}

// F21: without its unique index a dedup key would let duplicates in unnoticed; an index over unpublished rows alone stops at the
// first publish.
func TestMissingIndexesAreNamed(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.exec("DROP INDEX endstate_outbox_dedup")
		for _, partial := range []bool{false, true} {
			if partial {
				w.exec("CREATE UNIQUE INDEX partial ON endstate_outbox (dedup_key) WHERE schema_version > 0")
			}
			err := w.check(t.Context())
			require.ErrorIs(t, err, outbox.ErrSchema)
			require.ErrorContains(t, err, "dedup_key")
			require.ErrorContains(t, err, "_endstate_relay")
		}
		w.exec("CREATE UNIQUE INDEX whole ON endstate_outbox (dedup_key)")
		require.NoError(t, w.check(t.Context()))
	})
}
