package endstate_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// setting is what an administrator may have set for a service's role or database.
type setting struct {
	role, database string // as after ALTER ROLE … SET and ALTER DATABASE … SET, where several are separated by semicolons
	connection     string // a parameter in the connection string, such as "search_path=app"
	encoding       string // the database's; UTF8 where it is empty
	schema         string // named in the library's configuration; else the search_path leads there
	security       string // row-level security on each table, by a policy or none
	bouncer        bool   // PgBouncer in transaction mode
	since          int    // the first version of PostgreSQL that has the setting

	// What is expected instead of success. All of it is about the tables that were made before.
	fails map[string]string // what a step's error says; "" is for steps that aren't named
	fault string            // the SQLSTATE of what is provoked in each step, after which the step is gone again
}

const inApp = "search_path = app"

// formats change how PostgreSQL writes and reads values as text. Where values do go as text, pgx reads times in ISO form and bytea
// in hexadecimal only, so DateStyle and bytea_output aren't among them.
const formats = "IntervalStyle = sql_standard; TimeZone = 'Asia/Kathmandu'; extra_float_digits = -15; " +
	"array_nulls = off; backslash_quote = off; quote_all_identifiers = on; transform_null_equals = on; xmlbinary = hex"

var settings = map[string]setting{
	"search_path by role":       {role: "search_path = app, public"},
	"search_path by database":   {database: inApp},
	"search_path by connection": {connection: inApp},
	"search_path empty":         {role: "search_path = ''", schema: "app"},
	"search_path elsewhere":     {role: "search_path = public, pg_catalog", schema: "app"},
	"search_path that doesn't lead there": {role: "search_path = ''", fails: map[string]string{
		"Migrate":   "the search_path names no schema that is there",
		"DoTx":      `relation "endstate_outbox" does not exist`,
		"inbox":     `relation "endstate_inbox" does not exist`,
		"Admin":     `relation "endstate_outbox_subscriptions" does not exist`,
		"retention": "does not exist", // it begins before the relay has looked
		"":          `does not exist where the connection looks for it (its search_path is "\"\""), but in schema app`,
	}},

	"read committed":             {role: inApp, database: "default_transaction_isolation = 'read committed'"},
	"read uncommitted":           {role: inApp, database: "default_transaction_isolation = 'read uncommitted'"},
	"repeatable read":            {role: inApp, database: "default_transaction_isolation = 'repeatable read'"},
	"serializable":               {role: inApp, database: "default_transaction_isolation = 'serializable'"},
	"serializable by connection": {role: inApp, connection: "default_transaction_isolation = serializable"},
	"deferrable":                 {role: inApp, database: "default_transaction_deferrable = on"},
	"read-only": {role: inApp, database: "default_transaction_read_only = on", fails: map[string]string{
		"Migrate": "", "Check": "", // write nothing, where all is there
		"DoTx":  "cannot execute INSERT in a read-only transaction",
		"inbox": "read-only transaction", "relay": "read-only transaction", "consumer": "read-only transaction",
		"retention": "read-only transaction", "Admin": "no such subscription",
		"": "finalizing needs the primary, with default_transaction_read_only off",
	}},

	"statement_timeout":                   {role: inApp, database: "statement_timeout = '200ms'", fault: "57014"},
	"lock_timeout":                        {role: inApp, database: "lock_timeout = '20ms'", fault: "55P03"},
	"idle_in_transaction_session_timeout": {role: inApp, database: "idle_in_transaction_session_timeout = '200ms'", fault: "25P03"},
	"transaction_timeout":                 {role: inApp, database: "transaction_timeout = '5s'", fault: "25P04", since: 17},
	"idle_session_timeout":                {role: inApp, connection: "idle_session_timeout=100ms", fault: "57P05"},
	"synchronous_commit":                  {role: inApp, database: "synchronous_commit = off"},

	"formats":                   {role: inApp, database: formats + "; DateStyle = 'SQL, DMY'; bytea_output = escape; standard_conforming_strings = off"},
	"formats, as text":          {role: inApp, database: formats + "; standard_conforming_strings = off", connection: "default_query_exec_mode=exec"},
	"formats, simple protocol":  {role: inApp, database: formats, connection: "default_query_exec_mode=simple_protocol"},
	"planner":                   {role: inApp, database: "plan_cache_mode = force_generic_plan; jit = on"},
	"row_security":              {role: inApp, database: "row_security = off"},
	"replica":                   {role: inApp, database: "session_replication_role = replica"},
	"messages":                  {role: inApp, database: "client_min_messages = debug5; log_min_messages = panic; check_function_bodies = off"},
	"exit_on_error":             {role: inApp, database: "exit_on_error = on"},
	"LATIN1":                    {role: inApp, encoding: "LATIN1"},
	"LATIN1, clients with UTF8": {role: inApp, encoding: "LATIN1", connection: "client_encoding=UTF8"},
	"SQL_ASCII":                 {role: inApp, encoding: "SQL_ASCII"},
	"clients with LATIN1":       {role: inApp, connection: "client_encoding=LATIN1"},

	"PgBouncer":                          {role: inApp, connection: "default_query_exec_mode=exec", bouncer: true},
	"PgBouncer and an empty search_path": {role: "search_path = ''", schema: "app", connection: "default_query_exec_mode=exec", bouncer: true},

	"row-level security": {role: inApp, security: "CREATE POLICY endstate ON app.%s USING (true)"},
	"row-level security without a policy": {role: inApp, security: "--", fails: map[string]string{
		"Migrate": "", "Check": "may hide rows from role",
		"relay": "may hide rows from role", "consumer": "may hide rows from role", "retention": "may hide rows from role",
		"DoTx": "new row violates row-level security policy", "inbox": "row-level security policy",
		"Admin": "no such subscription",
		"":      `there is no such row in "batches"`,
	}},
}

// What administrators set for a role, a database or a connection: the whole journey works under it, or fails as it says here,
// and without a trace.
func TestAdministratorsSettings(t *testing.T) {
	t.Parallel()
	for name, s := range settings {
		for _, kind := range []string{"pgx", "sql"} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				s.test(t, kind)
			})
		}
	}
}

func (s setting) test(t *testing.T, kind string) {
	server := dbtest.Postgres(t)
	if s.encoding != "" {
		server = dbtest.Database(t, server, "ENCODING", s.encoding, "LC_COLLATE 'C' LC_CTYPE 'C'")
	}
	owner := dbtest.PoolOn(t, server)
	exec := func(statement string) {
		t.Helper()
		_, err := owner.Exec(context.WithoutCancel(t.Context()), statement)
		require.NoError(t, err, statement)
	}
	u, err := url.Parse(server)
	require.NoError(t, err)
	database, role := `"`+u.Path[1:]+`"`, "r_"+strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	var version int
	require.NoError(t, owner.QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int / 10000").Scan(&version))
	if version < s.since {
		return
	}
	exec("CREATE ROLE " + role + " LOGIN")
	t.Cleanup(func() {
		exec("DROP OWNED BY " + role)
		exec("DROP ROLE " + role)
	})
	exec("CREATE SCHEMA app AUTHORIZATION " + role)
	exec("CREATE TABLE app.batches (id text PRIMARY KEY, status text NOT NULL DEFAULT 'PENDING', note text)")
	exec("CREATE TABLE app.effects (by text)")
	exec("ALTER TABLE app.batches OWNER TO " + role)
	exec("ALTER TABLE app.effects OWNER TO " + role)
	exec("INSERT INTO app.batches VALUES ('do'), ('tx'), ('settle'), ('many1'), ('many2'), ('race')")
	u.User = url.User(role)
	if s.fails != nil || s.security != "" {
		early := newJourney(t, owner, dbtest.PoolOn(t, u.String()), nil, "app")
		require.NoError(t, each(t.Context(), early.way.migrate))
		if s.fails != nil {
			exec("INSERT INTO app.batches VALUES ('early')")
			_, err := early.way.do(t.Context(), "early", "t")
			require.NoError(t, err)
		}
	}
	if s.security != "" {
		rows, err := owner.Query(t.Context(), "SELECT relname FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'r'")
		require.NoError(t, err)
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		for _, table := range tables {
			exec("ALTER TABLE app." + table + " ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
			exec(fmt.Sprintf(s.security, table))
		}
	}
	if s.role != "" {
		exec("ALTER ROLE " + role + " IN DATABASE " + database + " SET " + s.role)
	}
	if s.database != "" {
		for set := range strings.SplitSeq(s.database, "; ") {
			exec("ALTER ROLE " + role + " IN DATABASE " + database + " RESET " + strings.Fields(set)[0])
			exec("ALTER DATABASE " + database + " SET " + set)
		}
	}
	if s.bouncer {
		u, err = url.Parse(dbtest.StartPgBouncer(t, u.String(), "default_pool_size=6").URL())
		require.NoError(t, err)
	}
	if name, value, set := strings.Cut(strings.ReplaceAll(s.connection, " ", ""), "="); set {
		query := u.Query()
		query.Set(name, value)
		u.RawQuery = query.Encode()
	}
	var pool *pgxpool.Pool
	var db *sql.DB
	if kind == "pgx" {
		pool = dbtest.PoolOn(t, u.String())
	} else {
		db = dbtest.SQLOn(t, u.String())
		db.SetMaxOpenConns(16)
	}
	j := newJourney(t, owner, pool, db, s.schema)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, step := range j.steps() {
		switch {
		case s.fails != nil:
			want, named := s.fails[step.name]
			if !named {
				want = s.fails[""]
			}
			if err := step.run(ctx); want == "" {
				require.NoError(t, err, step.name)
			} else {
				require.ErrorContains(t, err, want, step.name)
			}
		case s.fault != "":
			s.provoke(ctx, j, step)
		default:
			require.NoError(t, step.run(ctx), step.name)
		}
	}
	if s.fails != nil {
		j.requireUntouched()
	} else {
		j.requireDone()
	}
}

// provoke has a step meet the setting's limit, and then succeed. A busy machine may meet it by itself, too.
func (s setting) provoke(ctx context.Context, j *journey, step step) {
	j.t.Helper()
	var err error
	switch s.fault {
	case "57P05":
		require.Eventually(j.t, func() bool {
			var others bool
			err := j.owner.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename <> current_user)").Scan(&others)
			return err == nil && !others
		}, time.Minute, 5*time.Millisecond)
		err = step.run(ctx)
	case "25P03", "25P04":
		j.pause = func(ctx context.Context, tx endstate.Querier) {
			var pid int
			if err := tx.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err == nil {
				require.Eventually(j.t, func() bool {
					var alive bool
					err := j.owner.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid).Scan(&alive)
					return err == nil && !alive
				}, time.Minute, 5*time.Millisecond)
			}
		}
		err = step.run(ctx)
		j.pause = nil
		if slices.Contains([]string{"Do", "DoTx", "Do by eight at once", "inbox"}, step.name) {
			require.Equal(j.t, s.fault, sqltx.State(err), "%s: %v", step.name, err)
		}
	default:
		tx, beginErr := j.owner.Begin(ctx)
		require.NoError(j.t, beginErr)
		_, lockErr := tx.Exec(ctx, `DO $$ DECLARE t text; BEGIN
	FOR t IN SELECT oid::regclass FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'r' LOOP EXECUTE 'LOCK TABLE ' || t; END LOOP;
END $$`)
		require.NoError(j.t, lockErr)
		err = step.run(ctx)
		require.NoError(j.t, tx.Rollback(ctx))
		if step.name != "Migrate" { // which makes the tables, in the first go
			require.Equal(j.t, s.fault, sqltx.State(err), "%s: %v", step.name, err)
		}
	}
	require.NotErrorIs(j.t, err, outbox.ErrSchema, "%s: the tables are there", step.name)
	require.NotErrorIs(j.t, err, guard.ErrSchema, "%s: the tables are there", step.name)
	require.EventuallyWithT(j.t, func(c *assert.CollectT) { require.NoError(c, step.run(ctx), step.name) }, time.Minute, 5*time.Millisecond)
}

// In statement mode a PgBouncer allows no transactions. That is said at once, and nothing is half done.
func TestPgBouncerInStatementMode(t *testing.T) {
	t.Parallel()
	bouncer := func(t *testing.T, url string) string {
		return dbtest.StartPgBouncer(t, url, "pool_mode=statement").URL() + "&default_query_exec_mode=exec"
	}
	for _, kind := range []string{"pgx", "sql"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			server := dbtest.Postgres(t)
			owner := dbtest.PoolOn(t, server)
			_, err := owner.Exec(t.Context(), `CREATE SCHEMA app;
				CREATE TABLE app.batches (id text PRIMARY KEY, status text NOT NULL DEFAULT 'PENDING', note text);
				CREATE TABLE app.effects (by text);
				INSERT INTO app.batches VALUES ('do'), ('tx')`)
			require.NoError(t, err)
			require.NoError(t, each(t.Context(), newJourney(t, owner, owner, nil, "app").way.migrate))
			var pool *pgxpool.Pool
			var db *sql.DB
			if kind == "pgx" {
				pool = dbtest.PoolOn(t, bouncer(t, server))
			} else {
				db = dbtest.SQLOn(t, bouncer(t, server))
			}
			j := newJourney(t, owner, pool, db, "app")
			for _, step := range j.steps() {
				if slices.Contains([]string{"Migrate", "Check", "Do", "DoTx"}, step.name) {
					require.ErrorContains(t, step.run(t.Context()), "transaction blocks not allowed in statement pooling mode", step.name)
				}
			}
			j.requireUntouched()
		})
	}
}
