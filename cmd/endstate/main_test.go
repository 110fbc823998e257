package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/internal/dbtest"
)

// binary is the program, built as users build it.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "endstate")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "endstate")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build: %v\n%s", err, out))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		_ = os.RemoveAll(dir)
		os.Exit(status)
	}))
}

// result is what a run of the program left.
type result struct {
	stdout, stderr string
	status         int
}

// cli runs the program, with its environment's ENDSTATE_DB as db.
func cli(t testing.TB, db string, args ...string) result {
	t.Helper()
	return start(t, db, args...).wait(t)
}

// running is a run of the program that goes on.
type running struct {
	*exec.Cmd
	stdout, stderr dbtest.Log // which are read while it writes
}

func start(t testing.TB, db string, args ...string) *running {
	t.Helper()
	r := &running{Cmd: command(t, db, args...)}
	r.Stdout, r.Stderr = &r.stdout, &r.stderr
	require.NoError(t, r.Start())
	return r
}

// command is a run of the program that is still to be started.
func command(t testing.TB, db string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), dbEnv+"="+db)
	return cmd
}

func (r *running) wait(t testing.TB) result {
	t.Helper()
	err := r.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return result{r.stdout.String(), r.stderr.String(), r.ProcessState.ExitCode()}
}

// decode reads the JSON that a run printed, and nothing beside it.
func decode[T any](t testing.TB, r result) (value T) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(r.stdout))
	require.NoError(t, decoder.Decode(&value), "%+v", r)
	require.False(t, decoder.More(), r.stdout)
	return value
}

// each runs a test on a new database of each kind: its URL, and a connection to it.
func each(t *testing.T, run func(t *testing.T, url string, db *sql.DB)) {
	t.Helper()
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := dbtest.Postgres(t)
		run(t, url, dbtest.SQLOn(t, url))
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "what? 100% #1.db")
		db := dbtest.SQLiteOn(t, "file:"+strings.NewReplacer("?", "%3F", "%", "%25", "#", "%23").Replace(path)+"?_pragma=busy_timeout(10000)")
		_, err := db.Exec("PRAGMA journal_mode = wal")
		require.NoError(t, err)
		run(t, "sqlite:"+path, db)
	})
}

func mustExec(t testing.TB, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		_, err := db.ExecContext(t.Context(), s)
		require.NoError(t, err, s)
	}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		for range 2 {
			r := cli(t, url, "migrate")
			require.Equal(t, result{stdout: "up to date: endstate_ledger, endstate_outbox, endstate_inbox\n"}, r)
		}
		mustExec(t, db, "SELECT count(*) FROM endstate_ledger", "SELECT count(*) FROM endstate_outbox", "SELECT count(*) FROM endstate_inbox")
		r := cli(t, "", "migrate", "--json", "--db", url, "--outbox", "my outbox", "--ledger", "my ledger", "--inbox", "")
		require.Equal(t, []any{"my ledger", "my outbox"}, decode[map[string]any](t, r)["tables"])
		require.Zero(t, r.status)
		mustExec(t, db, `SELECT count(*) FROM "my ledger"`, `SELECT count(*) FROM "my outbox"`)
	})
	t.Run("schema", func(t *testing.T) {
		t.Parallel()
		url := dbtest.Postgres(t)
		require.Zero(t, cli(t, url, "migrate", "--schema", "Own").status)
		mustExec(t, dbtest.SQLOn(t, url), `SELECT count(*) FROM "Own".endstate_ledger`)
	})
}

func TestVersion(t *testing.T) {
	t.Parallel()
	r := cli(t, "", "version")
	require.Regexp(t, `^endstate \S+ \(go1\..*\), schema 20\d{12}\n$`, r.stdout)
	version := decode[map[string]string](t, cli(t, "", "version", "--json"))
	require.Contains(t, version["go"], "go1.")
	require.Contains(t, r.stdout, "schema "+version["schema"])
}

// F38: what can't run says why once, on stderr, and ends with 2. No credential is shown.
func TestErrors(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing.db")
	noDatabase := filepath.Join(t.TempDir(), "text.db")
	require.NoError(t, os.WriteFile(noDatabase, []byte(strings.Repeat("no database\n", 100)), 0o600))
	for _, tt := range []struct {
		name, db string
		args     []string
		said     string
	}{
		{"unknown command", "", []string{"finalise"}, `unknown command "finalise"`},
		{"unknown flag", "", []string{"migrate", "--tabel", "x"}, `unknown flag: --tabel (endstate migrate --help lists the flags)`},
		{"no database", "", []string{"migrate"}, "no database: give --db or set ENDSTATE_DB"},
		{"a scheme", "mysql://root:hunter2@localhost/x", []string{"migrate"}, `the scheme "mysql"`},
		{"a bad URL", "postgres://root:hunter2@localhost:port/x", []string{"migrate"}, "can't be parsed"},
		{"a bad parameter", "postgres://root:hunter2@localhost/x?pool_max_conns=hunter2", []string{"migrate"}, "can't be parsed"},
		{"nobody listens", "postgres://root:hunter2@127.0.0.1:1/x", []string{"migrate"}, "connection refused"},
		{"a URL as argument", "", []string{"migrate", "postgres://root:hunter2@127.0.0.1:1/x"}, "unknown command"},
		{"a key-value argument", "", []string{"migrate", "host=x password=hunter2"}, "unknown command"},
		{"a file in no folder", filepath.Join(missing, "x.db"), []string{"migrate"}, "unable to open database file"},
		{"no SQLite file", noDatabase, []string{"migrate"}, "file is not a database"},
		{"a bad name", "sqlite:" + missing, []string{"migrate", "--outbox", strings.Repeat("x", 60)}, "Writer.Table is 60 bytes long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := cli(t, tt.db, tt.args...)
			require.Equal(t, 2, r.status, "%+v", r)
			require.Empty(t, r.stdout)
			require.Contains(t, r.stderr, tt.said)
			require.NotContains(t, r.stderr, "hunter2")
			require.Equal(t, 1, strings.Count(r.stderr, "endstate: "), r.stderr)
		})
	}
	t.Run("help", func(t *testing.T) {
		t.Parallel()
		r := cli(t, "postgres://root:hunter2@localhost/x", "migrate", "--help")
		require.Zero(t, r.status)
		require.Contains(t, r.stdout, "--outbox")
		require.NotContains(t, r.stdout, "hunter2")
		require.Empty(t, r.stderr)
	})
}

func TestTablesLineUp(t *testing.T) {
	t.Parallel()
	table := newTable("aggregate", "events", "share")
	table.row("b1", 83, 0.5)
	table.row("日本語\n\x1b[31m\xff\u202e", 7, nil)
	table.row(strings.Repeat("é", 100), 1000000, 12.0)
	var out strings.Builder
	table.write(&out)
	require.Equal(t, `aggregate                                   events  share
b1                                              83   0.50
日本語\n\x1b[31m\xff\u202e                       7      –
éééééééééééééééééééééééééééééééééééééééé…  1000000  12.00
`, out.String())
}
