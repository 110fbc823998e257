package migrate_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// each runs a test on both databases.
func each(t *testing.T, run func(t *testing.T, d sqltx.Dialect, in func(func(context.Context, endstate.Tx) error) error)) {
	t.Helper()
	for _, d := range []sqltx.Dialect{sqltx.Postgres, sqltx.SQLite} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			var db *sql.DB
			if d == sqltx.SQLite {
				db = dbtest.SQLiteOn(t, dbtest.SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), "wal"))
			} else {
				db = dbtest.SQL(t)
			}
			run(t, d, func(f func(context.Context, endstate.Tx) error) error {
				ctx := context.Background()
				tx, err := db.BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				defer func() { _ = tx.Rollback() }()
				if err := f(ctx, sqltx.Wrap(tx, d)); err != nil {
					return err
				}
				return tx.Commit()
			})
		})
	}
}

// migrations are a table, and later a column of it.
func migrations(files ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for i, statement := range files {
		text := "-- +goose Up\n-- why; it is so\n-- +goose StatementBegin\n" + statement + ";\n-- +goose StatementEnd\n\n-- +goose Down\n-- +goose StatementBegin\nDROP TABLE \"things\";\n-- +goose StatementEnd\n"
		fsys[fmt.Sprintf("%05d_step.sql", i+1)] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

const create, extend = `CREATE TABLE "things" (n int)`, `ALTER TABLE "things" ADD COLUMN "more" int`

func TestRunAppliesWhatIsNew(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, _ sqltx.Dialect, in func(func(context.Context, endstate.Tx) error) error) {
		run := func(fsys fs.FS) error {
			return in(func(ctx context.Context, tx endstate.Tx) error { return migrate.Run(ctx, tx, "", "things", fsys) })
		}
		missing := func(columns ...string) error {
			return in(func(ctx context.Context, tx endstate.Tx) error {
				return migrate.Missing(ctx, tx, "", "things", columns)
			})
		}
		require.ErrorContains(t, missing("n"), `table "things" does not exist`)
		require.NoError(t, run(migrations(create)))
		require.NoError(t, missing("n"))
		require.ErrorContains(t, missing("n", "more"), `table "things" has no column "more"`)
		require.NoError(t, run(migrations(create)), "again")
		require.NoError(t, run(migrations(create, extend)))
		require.NoError(t, missing("n", "more"))
		require.NoError(t, run(migrations(create, extend)), "again")

		// A step that fails undoes the whole run, and can be run again.
		require.ErrorContains(t, run(migrations(create, extend, `ALTER TABLE "things" ADD COLUMN third int`, "NONSENSE")), "00004_step.sql")
		require.Error(t, missing("third"))
		require.NoError(t, run(migrations(create, extend, `ALTER TABLE "things" ADD COLUMN third int`)))
		require.NoError(t, missing("third"))

		require.ErrorContains(t, run(fstest.MapFS{"noversion.sql": {Data: []byte("-- +goose Up\n")}}), "its name has no version")
	})
}

// F19: ten at once.
func TestRunByTenAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d sqltx.Dialect, in func(func(context.Context, endstate.Tx) error) error) {
		schema := "new schema"
		if d == sqltx.SQLite {
			schema = "main"
		}
		apply := func(ctx context.Context, tx endstate.Tx) error {
			return migrate.Run(ctx, tx, schema, "things", migrate.Rename(migrations(create, extend), d, "things", schema, "things"))
		}
		errs := make([]error, 9)
		var wg sync.WaitGroup
		require.NoError(t, in(func(ctx context.Context, tx endstate.Tx) error {
			if err := apply(ctx, tx); err != nil {
				return err
			}
			for i := range errs {
				wg.Go(func() {
					for {
						errs[i] = in(apply)
						if d != sqltx.SQLite || !sqltx.Conflicted(errs[i]) {
							return // on SQLite, a caller that finds the database busy must run it again
						}
					}
				})
			}
			if d == sqltx.SQLite { // whose waiters can't be seen
				return nil
			}
			for waiting, tries := 0, 0; waiting < len(errs); tries++ { // the others come while the first one hasn't committed
				if tries > 6000 {
					return errors.New("the fault didn't fire: the others don't wait")
				}
				row := tx.QueryRow(ctx, "SELECT count(*) FROM pg_locks, pg_sleep(0.01) WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
				if err := row.Scan(&waiting); err != nil {
					return err
				}
			}
			return nil
		}))
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		require.NoError(t, in(func(ctx context.Context, tx endstate.Tx) error {
			return migrate.Missing(ctx, tx, schema, "things", []string{"n", "more"})
		}))
	})
}

func TestUpIsTheFirstHalf(t *testing.T) {
	text, err := fs.ReadFile(migrations("SELECT 1;\nSELECT '-- x'"), "00001_step.sql")
	require.NoError(t, err)
	require.Equal(t, []string{"SELECT 1;\nSELECT '-- x';\n"}, migrate.Up(string(text)))
	require.Empty(t, migrate.Up("-- +goose Up\n\n-- +goose Down\n-- +goose StatementBegin\nDROP TABLE x;\n-- +goose StatementEnd\n"))
}

func TestRenameQuotes(t *testing.T) {
	fsys := fstest.MapFS{
		"1_a.sql":  {Data: []byte(`CREATE TABLE "things" (n int); CREATE INDEX "things_n" ON "things" (n); -- things`)},
		"README.x": {Data: []byte(`"things"`)},
	}
	text, err := fs.ReadFile(migrate.Rename(fsys, sqltx.SQLite, "things", "main", "t"), "1_a.sql")
	require.NoError(t, err)
	const note = "\n" + `-- +goose StatementBegin`
	require.Contains(t, string(text), `CREATE TABLE IF NOT EXISTS "main"."t" (n int); CREATE INDEX "main"."t_n" ON "t" (n); -- things`+note)
	renamed := migrate.Rename(fsys, sqltx.Postgres, "things", `Own "S"`, `My "T"`)
	text, err = fs.ReadFile(renamed, "1_a.sql")
	require.NoError(t, err)
	require.Contains(t, string(text), `CREATE TABLE IF NOT EXISTS "Own ""S"""."My ""T""" (n int); CREATE INDEX "My ""T""_n" ON "Own ""S"""."My ""T""" (n); -- things`+note)
	info, err := fs.Stat(renamed, "1_a.sql")
	require.NoError(t, err)
	require.EqualValues(t, len(text), info.Size())
	text, err = fs.ReadFile(renamed, "README.x")
	require.NoError(t, err)
	require.Equal(t, `"things"`, string(text))
	_, err = fs.ReadFile(renamed, "2_b.sql")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestHasUnique(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d sqltx.Dialect, in func(func(context.Context, endstate.Tx) error) error) {
		for i, tt := range []struct {
			create string
			want   bool
			only   sqltx.Dialect
		}{
			{create: "CREATE TABLE %s (a text PRIMARY KEY, b text)", want: true},
			{create: "CREATE TABLE %s (a text UNIQUE, b text)", want: true},
			{create: "CREATE TABLE %s (a text, b text)", want: false},
			{create: "CREATE TABLE %s (a text, b text, PRIMARY KEY (a, b))", want: false},
			{create: "CREATE TABLE %s (a text, b text UNIQUE)", want: false},
			{create: "CREATE TABLE %s (a text, b text); CREATE INDEX i%[1]s ON %[1]s (a)", want: false},
			{create: "CREATE TABLE %s (a text, b text); CREATE UNIQUE INDEX i%[1]s ON %[1]s (a) WHERE b IS NULL", want: false},
			{create: "CREATE TABLE %s (a text, b text); CREATE UNIQUE INDEX i%[1]s ON %[1]s (lower(a))", want: false},
			{create: "CREATE TABLE %s (a text, b text); CREATE UNIQUE INDEX i%[1]s ON %[1]s (a, lower(b))", want: false},
			{create: "CREATE TABLE %s (a text, b text); CREATE UNIQUE INDEX i%[1]s ON %[1]s (a) INCLUDE (b)", want: true, only: sqltx.Postgres},
		} {
			if tt.only != "" && tt.only != d {
				continue
			}
			table := fmt.Sprint("t", i)
			require.NoError(t, in(func(ctx context.Context, tx endstate.Tx) error {
				for statement := range strings.SplitSeq(fmt.Sprintf(tt.create, table), "; ") {
					if _, err := tx.Exec(ctx, statement); err != nil {
						return err
					}
				}
				got, err := migrate.HasUnique(ctx, tx, "", table, []string{"a"})
				require.Equal(t, tt.want, got, tt.create)
				return err
			}))
		}
	})
}
