package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What --print prints makes what migrate makes, and can be run twice; then migrate has nothing to do.
func TestMigratePrintsSQL(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		args := []string{"migrate", "--print"}
		if strings.HasPrefix(url, "postgres") {
			args = append(args, "--schema", `Own "S"`)
		}
		r := cli(t, url, args...)
		require.Zero(t, r.status, r.stderr)
		tables := func() (n int) {
			query := "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'Own \"S\"'"
			if strings.HasPrefix(url, "sqlite") {
				query = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name LIKE 'endstate%'"
			}
			require.NoError(t, db.QueryRowContext(t.Context(), query).Scan(&n))
			return n
		}
		require.Zero(t, tables(), "it touched the database")
		for range 2 {
			mustExec(t, db, r.stdout)
		}
		made := tables()
		require.Greater(t, made, 3)
		r = cli(t, url, append(args[:1:1], args[2:]...)...)
		require.Zero(t, r.status, r.stderr)
		require.Equal(t, made, tables())
	})
	r := cli(t, "", "migrate", "--print", "--json")
	require.Zero(t, r.status, "no database is needed: %s", r.stderr)
	require.Contains(t, decode[struct{ SQL string }](t, r).SQL, `CREATE TABLE IF NOT EXISTS "endstate_ledger"`)
}

// --dir writes what a folder doesn't have, in the tool's format, and nothing the second time.
func TestMigrateWritesFiles(t *testing.T) {
	t.Parallel()
	for format, ends := range map[string]string{"goose": ".sql", "golang-migrate": ".up.sql", "tern": ".sql"} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "00007_own.sql"), []byte("SELECT 1;\n"), 0o600))
		args := []string{"migrate", "--json", "--dir", dir, "--format", format, "--inbox", ""}
		files := decode[struct{ Files []string }](t, cli(t, "", args...)).Files
		require.True(t, slices.ContainsFunc(files, func(name string) bool { return strings.HasSuffix(name, "_endstate_ledger"+ends) }), "%v", files)
		for _, name := range files {
			require.Greater(t, name, "00007_own.sql")
			require.Less(t, name, "00020")
		}
		require.Empty(t, decode[struct{ Files []string }](t, cli(t, "", args...)).Files)
		more := decode[struct{ Files []string }](t, cli(t, "", args[:len(args)-2]...)).Files
		require.NotEmpty(t, more)
		for _, name := range more {
			require.Contains(t, name, "_endstate_inbox")
		}
	}
}

func TestMigrateRefusesFlagsThatDontGoTogether(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for says, args := range map[string][]string{
		"--print and --dir don't go together":    {"--print", "--dir", dir, "--format", "goose"},
		"--format goes with --dir":               {"--format", "goose"},
		"--dir needs a --format":                 {"--dir", dir},
		`no format "flyway"`:                     {"--dir", dir, "--format", "flyway"},
		"tern is for PostgreSQL":                 {"--dir", dir, "--format", "tern", "--dialect", "sqlite"},
		"--dialect goes with --print and":        {"--dialect", "sqlite"},
		`no migrations for dialect "mysql"`:      {"--print", "--dialect", "mysql"},
		"the folder for migrations: open " + dir: {"--dir", filepath.Join(dir, "absent"), "--format", "goose"},
	} {
		r := cli(t, "", append([]string{"migrate"}, args...)...)
		require.NotZero(t, r.status, says)
		require.Contains(t, r.stderr, says)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}
