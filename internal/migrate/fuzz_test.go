package migrate_test

import (
	"database/sql"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Files are read in the order of their versions, or one is named that has none; of a text each statement between its marks is read,
// as it is.
func FuzzLoad(f *testing.F) {
	f.Add("00001_ledger.sql", "00002_more.sql", "CREATE TABLE x (n int);\n", "-- +goose Down\n-- +goose StatementBegin\nDROP TABLE x;\n-- +goose StatementEnd\n")
	f.Add("-1_.sql", "9223372036854775808_x.sql", "-- +goose StatementBegin\n", "-- +goose StatementEnd")
	f.Add("x.sql", "1.sql", "", "-- +goose Down")
	f.Fuzz(func(t *testing.T, first, second, statement, text string) {
		fsys := fstest.MapFS{}
		for _, name := range []string{first, second} {
			if !strings.HasSuffix(name, ".sql") || strings.Contains(name, "/") || !fs.ValidPath(name) {
				return
			}
			fsys[name] = &fstest.MapFile{Data: []byte("-- +goose Up\n-- +goose StatementBegin\n" + statement + "-- +goose StatementEnd\n" + text)}
		}
		files, err := migrate.Load(fsys)
		if err != nil {
			require.ErrorContains(t, err, "migration ")
			return
		}
		require.Len(t, files, len(fsys))
		require.LessOrEqual(t, files[0].Version, files[len(files)-1].Version)
		if strings.Contains(statement+text, "-- +goose") && !strings.HasPrefix(text, "-- +goose Down\n") || strings.Contains(statement, "-- +goose") {
			return // other marks
		}
		for _, file := range files {
			require.Equal(t, []string{statement}, file.Up)
			require.Equal(t, strings.Count(text, "-- +goose StatementBegin\n"), len(file.Down))
		}
	})
}

// A table and its index get whatever name a service gives them, and nothing else: other tables stay as they are.
func FuzzRename(f *testing.F) {
	for _, seed := range []string{"batches", `a"b`, "it's", "--", "/* x", "a;b", "things_more", "line\nbreak", "$1", "Ü", `x" (n int); DROP TABLE "canary`, "-- +goose Down\n", "-- +goose StatementEnd"} {
		f.Add(seed)
	}
	const index = `CREATE INDEX "things_n" ON "things" (n)`
	db, err := sql.Open("sqlite", ":memory:")
	require.NoError(f, err)
	db.SetMaxOpenConns(1)
	f.Cleanup(func() { _ = db.Close() })
	f.Fuzz(func(t *testing.T, name string) {
		if sqltx.CheckIdent(name) != nil || strings.EqualFold(name, "canary") || strings.EqualFold(name, migrate.Table) || strings.HasPrefix(strings.ToLower(name), "sqlite_") {
			return
		}
		tx, err := db.Begin()
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Rollback()) }()
		_, err = tx.Exec("CREATE TABLE canary (n int)")
		require.NoError(t, err)
		migrated := func() error {
			fsys := migrate.Rename(migrations(create, index, extend), sqltx.SQLite, "things", "main", name)
			return migrate.Run(t.Context(), sqltx.Wrap(tx, sqltx.SQLite), "main", name, fsys)
		}
		err = migrated()
		if strings.Contains(name, "-- +goose") {
			require.ErrorContains(t, err, "which marks where statements begin and end")
			return
		}
		require.NoError(t, err, "%q", name)
		require.NoError(t, migrated(), "once more")
		var made int
		require.NoError(t, tx.QueryRow("SELECT count(*) FROM sqlite_schema WHERE tbl_name = ?1 AND name IN (?1, ?1 || '_n')", name).Scan(&made))
		require.Equal(t, 2, made, "%q: the table and its index", name)
		var others int
		require.NoError(t, tx.QueryRow("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> ?", name).Scan(&others))
		require.Equal(t, 2, others, "canary and the list of migrations")
		var noted string
		require.NoError(t, tx.QueryRow(fmt.Sprintf("SELECT group_concat(version) FROM %s WHERE target = ?", migrate.Table), name).Scan(&noted))
		require.Equal(t, "1,2,3", noted)
	})
}
