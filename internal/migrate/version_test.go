package migrate_test

import (
	"context"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Libraries of two adjacent schema versions, on both schemas: the older one works on the newer schema unless a file broke it,
// and the newer one asks for its migrations.
func TestWhichVersionsMeet(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d sqltx.Dialect, in func(func(context.Context, endstate.Tx) error) error) {
		files := migrations(create, extend, `CREATE TABLE "things_more" (n int)`)
		files["00003_step.sql"].Data = append([]byte("-- endstate: breaks earlier versions\n"), files["00003_step.sql"].Data...)
		library := func(version int) fs.FS {
			its := fstest.MapFS{}
			for _, name := range []string{"00001_step.sql", "00002_step.sql", "00003_step.sql"}[:version] {
				its[name] = files[name]
			}
			return migrate.Rename(its, d, "things", "", "things", "_more")
		}
		check := func(version int) error {
			return in(func(ctx context.Context, tx endstate.Tx) error {
				return migrate.Check(ctx, tx, "", "things", library(version), migrate.Need{Table: "things", Select: migrate.All})
			})
		}
		run := func(version int) error {
			return in(func(ctx context.Context, tx endstate.Tx) error {
				return migrate.Run(ctx, tx, "", "things", library(version))
			})
		}
		require.ErrorContains(t, check(1), `table "things" does not exist`)
		require.NoError(t, run(1))
		require.NoError(t, check(1))
		err := check(2)
		require.ErrorContains(t, err, `table "things" has no column "more"`)
		require.ErrorContains(t, err, `the schema of "things" is at version 1, and this library has 2`)
		require.ErrorContains(t, err, "apply the migrations up to 00002_step")

		require.NoError(t, run(2))
		require.NoError(t, check(1), "the older library while programs are replaced")
		require.NoError(t, check(2))
		require.NoError(t, run(1), "at its start")
		require.NoError(t, check(2))
		// What it needs is there, and yet the schema is older.
		require.ErrorContains(t, check(3), `the schema of "things" is at version 2, and this library has 3`)

		require.NoError(t, run(3))
		require.NoError(t, check(3))
		for _, older := range []int{1, 2} {
			const says = `the schema of "things" is at version 3, which works with libraries from 3 on, and this one has`
			require.ErrorContains(t, check(older), says)
			require.ErrorContains(t, run(older), says, "it would make anew what was taken away")
		}
	})
}

// Each difference is named, and nothing but what the tables need for their work is one.
func TestCheckComparesWhatIsThere(t *testing.T) {
	t.Parallel()
	const whole = `CREATE TABLE "things" (
    id   bigint NOT NULL PRIMARY KEY, -- a comment, with a comma
    name text   NOT NULL DEFAULT 'a, (b) -- c',
    at   text   CHECK (at <> ''),
    UNIQUE (name, at)
);
-- +goose StatementEnd
-- +goose StatementBegin
CREATE INDEX "things_at" ON "things" (at) WHERE name <> ''`
	each(t, func(t *testing.T, d sqltx.Dialect, in func(func(context.Context, endstate.Tx) error) error) {
		check := func() error {
			return in(func(ctx context.Context, tx endstate.Tx) error {
				return migrate.Check(ctx, tx, "", "things", migrations(whole), migrate.Need{Table: "things"})
			})
		}
		for _, tt := range []struct {
			table   string
			indexes []string
			says    []string
		}{
			{"id bigint NOT NULL PRIMARY KEY, name text NOT NULL, at text, more int, UNIQUE (name, at)", []string{"CREATE INDEX things_at ON things (at, id) WHERE name <> ''"}, nil},
			{"id bigint NOT NULL, name text NOT NULL, at text", []string{"CREATE UNIQUE INDEX i ON things (id)", "CREATE UNIQUE INDEX n ON things (name)", "CREATE INDEX a ON things (at)"}, nil},
			{"id bigint NOT NULL PRIMARY KEY, name text NOT NULL", nil, []string{`table "things" has no column "at"`}},
			{"id text NOT NULL PRIMARY KEY, name text NOT NULL, at text", nil, []string{`column "id" of table "things" is of type text, and must be bigint`}},
			{"id bigint NOT NULL PRIMARY KEY, name text, at text", nil, []string{`column "name" of table "things" must be NOT NULL`}},
			{"id bigint NOT NULL, name text NOT NULL, at text", []string{"CREATE INDEX i ON things (id)", "CREATE UNIQUE INDEX n ON things (name, at) WHERE at <> ''", "CREATE INDEX l ON things (lower(at))"}, []string{
				`no unique index over all of its rows on (id)`, `no unique index over all of its rows on (name, at)`, `no index on (at)`}},
		} {
			require.NoError(t, in(func(ctx context.Context, tx endstate.Tx) error {
				for _, statement := range append([]string{"DROP TABLE IF EXISTS things", "CREATE TABLE things (" + tt.table + ")"}, tt.indexes...) {
					if _, err := tx.Exec(ctx, statement); err != nil {
						return err
					}
				}
				return nil
			}))
			if tt.says == nil {
				require.NoError(t, check(), tt.table)
				continue
			}
			err := check()
			for _, says := range tt.says {
				require.ErrorContains(t, err, says, tt.table)
			}
		}
		require.ErrorContains(t, in(func(ctx context.Context, tx endstate.Tx) error {
			return migrate.Run(ctx, tx, "", "things", migrations(`DROP TABLE "things"`))
		}), "a statement that Check can't read")
	})
}
