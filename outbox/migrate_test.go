package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
)

// hostileNames are names that PostgreSQL and SQLite can hold, and that break SQL which doesn't quote them.
var hostileNames = []string{
	"Mixed Case", `quo"te`, `sing'le`, "semi;colon", `x"; DROP TABLE bystander; --`, `x'); DROP TABLE bystander; --`,
	"select", "$1 $2", "?1 ?2", "%s %d", `back\slash`, "naïve Überstatus", "comment -- /* */", "new\nline", "endstate_outbox_id",
	strings.Repeat("n", 48),
}

func TestRenamedOutbox(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		db.Exec(t, "CREATE TABLE bystander (n int)")
		for _, name := range hostileNames {
			if !dbtest.Apostrophes() && strings.ContainsAny(name, "'$") {
				continue
			}
			t.Run(name, func(t *testing.T) {
				w := outbox.Writer{Schema: name, Table: name}
				if db.SQLite {
					w.Schema = "main"
				}
				if db.SQLite && name == "endstate_outbox_id" {
					return // an index of the default outbox in this database
				}
				db.Migrate(t, w)
				db.Migrate(t, w)
				e := event("completed", "k")
				db.In(t, func(ctx context.Context, tx endstate.Tx) {
					require.NoError(t, w.Check(ctx, tx))
					first, err := w.Put(ctx, tx, e)
					require.NoError(t, err)
					require.True(t, first[0].Inserted)
					again, err := w.Put(ctx, tx, e, event("other", ""))
					require.NoError(t, err)
					require.Equal(t, first[0].ID, again[0].HeldBy)
					require.True(t, again[1].Inserted)
				})
				require.Equal(t, []string{"completed", "other"}, types(db.Stored(t, w)))
			})
		}
		require.Zero(t, outboxdbtest.One[int](t, db, "SELECT count(*) FROM bystander"))
		require.Zero(t, db.Count(t), "the default outbox")
	})
}

// Outboxes of one name in two schemas, and of two names in one, are apart.
func TestOutboxesApart(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, nil, func(t *testing.T, db *database) {
		for _, w := range []outbox.Writer{{}, {Schema: "a"}, {Schema: "b"}, {Schema: "a", Table: "events"}} {
			db.Migrate(t, w)
			db.In(t, func(ctx context.Context, tx endstate.Tx) {
				results, err := w.Put(ctx, tx, event("completed", "k"))
				require.NoError(t, err)
				require.True(t, results[0].Inserted)
			})
		}
	})
}

// F19: ten at once.
func TestMigrateByTenAtOnce(t *testing.T) {
	t.Parallel()
	each(t, databases, nil, func(t *testing.T, db *database) {
		w := outbox.Writer{Schema: "new", Table: "events"}
		if db.SQLite {
			w.Schema = ""
		}
		errs := make([]error, 10)
		dbtest.AtOnce(len(errs), func(i int) {
			errs[i] = retried(db, func(ctx context.Context, tx endstate.Tx) error { return w.Migrate(ctx, tx) })
		})
		require.NoError(t, errors.Join(errs...))
		db.In(t, func(ctx context.Context, tx endstate.Tx) {
			_, err := w.Put(ctx, tx, event("completed", "k"))
			require.NoError(t, err)
			require.NoError(t, w.Check(ctx, tx))
		})
	})
}

// objects lists what a migration may have made.
func objects(t testing.TB, db *database) string {
	t.Helper()
	if db.SQLite {
		return outboxdbtest.One[string](t, db, "SELECT coalesce(group_concat(sql, ', '), '') FROM (SELECT sql FROM sqlite_schema WHERE name NOT LIKE '%endstate_migrations%' AND name NOT LIKE 'sqlite_%' ORDER BY name)")
	}
	return outboxdbtest.One[string](t, db, `SELECT coalesce(string_agg(o, ', ' ORDER BY o), '') FROM (
	SELECT relkind::text || ' ' || relname || ' ' || coalesce((SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0), '')
	FROM pg_class c WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema)' AND relname !~ '^endstate_migrations'
	UNION ALL SELECT 'f ' || proname FROM pg_proc WHERE pronamespace::regnamespace::text !~ '^(pg_|information_schema)') s (o)`)
}

func TestMigrationsUpAndDown(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, nil, func(t *testing.T, db *database) {
		dialect := "postgres"
		if db.SQLite {
			dialect = "sqlite"
		}
		for _, w := range []outbox.Writer{{}, {Table: `Own "Events"`}} {
			files, err := w.Migrations(dialect)
			require.NoError(t, err)
			names, err := fs.Glob(files, "*.sql")
			require.NoError(t, err)
			require.Equal(t, []string{"20261128100100_endstate_outbox.sql", "20261128100200_endstate_relay.sql"}, names)
			var up, down []string
			for _, name := range names {
				text, err := fs.ReadFile(files, name)
				require.NoError(t, err)
				fileUp, fileDown := gooseStatements(t, string(text))
				require.Equal(t, fileUp, migrate.Up(string(text)), "Run reads what goose reads")
				up, down = append(up, fileUp...), append(fileDown, down...)
			}
			var made string
			for range 2 {
				require.Empty(t, objects(t, db))
				for _, statement := range up {
					db.Exec(t, statement)
				}
				made = objects(t, db)
				db.In(t, func(ctx context.Context, tx endstate.Tx) { require.NoError(t, w.Check(ctx, tx)) })
				for _, statement := range down {
					db.Exec(t, statement)
				}
				require.Empty(t, objects(t, db), "Down leaves something behind")
			}
			db.Migrate(t, w)
			require.Equal(t, made, objects(t, db), "Migrate makes the same")
			db.Migrate(t, w)
			require.Equal(t, made, objects(t, db))
			for _, statement := range down {
				db.Exec(t, statement)
			}
		}
	})
	for _, dialect := range []string{"", "mysql", ".."} {
		_, err := outbox.Migrations(dialect)
		require.ErrorIs(t, err, outbox.ErrConfig)
	}
}

// gooseStatements reads a migration the way goose does, strictly: annotations each on a line of their own, Up before Down,
// every statement between StatementBegin and StatementEnd, nothing but comments outside.
func gooseStatements(t testing.TB, text string) (up, down []string) {
	t.Helper()
	var half *[]string
	var statement *strings.Builder
	for line := range strings.Lines(text) {
		annotation, isAnnotation := strings.CutPrefix(strings.TrimSpace(line), "-- +goose ")
		switch {
		case isAnnotation && annotation == "Up":
			require.Nil(t, half, "Up comes first, and once")
			half = &up
		case isAnnotation && annotation == "Down":
			require.Same(t, &up, half, "Down comes after Up")
			require.Nil(t, statement, "a statement does not end before Down")
			half = &down
		case isAnnotation && annotation == "StatementBegin":
			require.NotNil(t, half, "a statement before Up")
			require.Nil(t, statement, "a statement in a statement")
			statement = new(strings.Builder)
		case isAnnotation && annotation == "StatementEnd":
			require.NotNil(t, statement, "an end without a beginning")
			*half = append(*half, statement.String())
			statement = nil
		case isAnnotation:
			require.Fail(t, "unknown annotation", line)
		case statement != nil:
			statement.WriteString(line)
		default:
			outside := strings.TrimSpace(line)
			require.True(t, outside == "" || strings.HasPrefix(outside, "--"), "outside of a statement: %s", line)
		}
	}
	require.Nil(t, statement, "a statement does not end")
	require.NotEmpty(t, up)
	require.NotEmpty(t, down)
	return up, down
}

func TestCheckNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql", "sqlite-wal"}, nil, func(t *testing.T, db *database) {
		check := func() error {
			return db.Try(func(ctx context.Context, tx endstate.Tx) error { return outbox.Writer{}.Check(ctx, tx) })
		}
		requireMissing := func(says string) {
			t.Helper()
			err := check()
			require.ErrorIs(t, err, outbox.ErrSchema)
			require.ErrorContains(t, err, says)
			require.ErrorContains(t, err, "apply the migrations up to")
		}
		requireMissing(`table "endstate_outbox" does not exist`)
		db.Migrate(t, *writer)
		require.NoError(t, check())

		// The trap: an index that stops deduplicating at the first publish.
		for _, column := range []string{"dedup_key", "id"} {
			index := "endstate_outbox_" + strings.TrimSuffix(column, "_key")
			db.Exec(t, "DROP INDEX "+index)
			requireMissing("no unique index over all of its rows on (" + column + ")")
			db.Exec(t, fmt.Sprintf("CREATE UNIQUE INDEX %s ON endstate_outbox (%s) WHERE schema_version > 0", index, column))
			requireMissing("no unique index over all of its rows on (" + column + ")")
			db.Exec(t, "DROP INDEX "+index)
			db.Exec(t, fmt.Sprintf("CREATE UNIQUE INDEX %s ON endstate_outbox (%s)", index, column))
			require.NoError(t, check())
		}
		for _, column := range []string{"headers", "created_at"} {
			db.Exec(t, "ALTER TABLE endstate_outbox RENAME COLUMN "+column+" TO gone")
			requireMissing(`table "endstate_outbox" has no column "` + column + `"`)
			db.Exec(t, "ALTER TABLE endstate_outbox RENAME COLUMN gone TO "+column)
		}
		require.NoError(t, check())
	})
}

// F19: a migration that doesn't commit has not happened, and can be done again.
func TestMigrateRolledBack(t *testing.T) {
	t.Parallel()
	each(t, databases, nil, func(t *testing.T, db *database) {
		undone := errors.New("undone")
		require.ErrorIs(t, db.Try(func(ctx context.Context, tx endstate.Tx) error {
			require.NoError(t, outbox.Writer{}.Migrate(ctx, tx))
			return undone
		}), undone)
		require.Empty(t, objects(t, db))
		db.Migrate(t, *writer)
		db.Put(t, event("completed", "k"))
	})
}
