package guard_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
)

// Batch 1 never closes invoice 1, and the text "1" never the integer 1.
func TestLedgerTellsAggregatesApart(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		l := guard.Ledger{}
		db.migrate(t, l)
		refs := []guard.Ref{
			{Aggregate: "batch", Key: guard.Int(1)},
			{Aggregate: "batch", Key: guard.Text("1")},
			{Aggregate: "invoice", Key: guard.Int(1)},
			{Aggregate: "Batch", Key: guard.Int(1)},
			{Aggregate: "batch ", Key: guard.Int(1)},
			{Aggregate: "batch", Key: guard.Composite(guard.Int(1), guard.Int(1))},
			{Aggregate: "batch", Key: guard.Text("i:1/i:1")},
		}
		for i, ref := range refs {
			_, err := db.settle(t, l, ref, fmt.Sprint("STATE_", i))
			require.NoError(t, err, "%v", ref)
		}
		for i, ref := range refs {
			rec, err := db.claim(t, l, ref)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint("STATE_", i), rec.State, "%v", ref)
		}
		require.Equal(t, len(refs), one[int](t, db, "SELECT count(*) FROM endstate_ledger"))
	})
}

func TestLedgerRefusesOnlyTheEmptyState(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, func(t *testing.T, db *database) {
		db.migrate(t, guard.Ledger{})
		_, err := db.settle(t, guard.Ledger{}, batch(guard.Int(1)), "")
		require.ErrorIs(t, err, guard.ErrNotTerminal)
		require.Zero(t, one[int](t, db, "SELECT count(*) FROM endstate_ledger"))
	})
}

// A digest is optional, as for entries that were written by hand.
func TestLedgerWithoutDigest(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		db.migrate(t, guard.Ledger{})
		ref, to := batch(guard.Int(1)), transition("DONE")
		to.Digest = nil
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			_, err := guard.Ledger{}.Settle(ctx, tx, ref, to)
			require.NoError(t, err)
		})
		rec, err := db.claim(t, guard.Ledger{}, ref)
		require.NoError(t, err)
		require.Empty(t, rec.Provenance.Digest)
		require.Equal(t, to.Token, rec.Provenance.Token)
	})
}

// schema lists every object that a migration may have made.
func (db *database) schema(t testing.TB) []string {
	t.Helper()
	query := `SELECT coalesce(string_agg(o, ', ' ORDER BY o), '') FROM (
	SELECT relkind::text || ' ' || relname || ' ' || coalesce((SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0), '')
	FROM pg_class c WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema)' AND relname <> 'endstate_migrations' AND relname <> 'endstate_migrations_pkey'
	UNION ALL SELECT 'f ' || proname FROM pg_proc WHERE pronamespace::regnamespace::text !~ '^(pg_|information_schema)') s (o)`
	if db.sqlite {
		query = "SELECT coalesce(group_concat(sql, ', '), '') FROM (SELECT sql FROM sqlite_schema WHERE name NOT LIKE '%endstate_migrations%' AND name NOT LIKE 'sqlite_%' ORDER BY name)"
	}
	if list := one[string](t, db, query); list != "" {
		return strings.Split(list, ", ")
	}
	return nil
}

func TestLedgerMigrationsUpAndDown(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, func(t *testing.T, db *database) {
		dialect := "postgres"
		if db.sqlite {
			dialect = "sqlite"
		}
		for _, l := range []guard.Ledger{{}, {Table: `Own "Ledger"`}} {
			files, err := l.Migrations(dialect)
			require.NoError(t, err)
			names, err := fs.Glob(files, "*.sql")
			require.NoError(t, err)
			require.Equal(t, []string{"20261128100000_endstate_ledger.sql"}, names)
			text, err := fs.ReadFile(files, names[0])
			require.NoError(t, err)
			info, err := fs.Stat(files, names[0])
			require.NoError(t, err)
			require.EqualValues(t, len(text), info.Size())
			up, down := gooseStatements(t, string(text))
			require.Empty(t, db.schema(t))
			var made []string
			for range 2 {
				for _, statement := range up {
					db.exec(t, statement)
				}
				made = db.schema(t)
				require.NotEmpty(t, made)
				db.in(t, func(ctx context.Context, tx endstate.Tx) { require.NoError(t, l.Check(ctx, tx)) })
				for _, statement := range down {
					db.exec(t, statement)
				}
				require.Empty(t, db.schema(t), "Down leaves something behind")
			}
			// Migrate makes the same.
			db.migrate(t, l)
			require.Equal(t, made, db.schema(t))
			db.migrate(t, l)
			require.Equal(t, made, db.schema(t))
			for _, statement := range down {
				db.exec(t, statement)
			}
		}
	})
}

// F19: ten at once.
func TestLedgerMigrateByTenAtOnce(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		l := guard.Ledger{Schema: "new", Table: "ledger"}
		if db.sqlite {
			l.Schema = ""
		}
		errs := db.atOnce(10, func(ctx context.Context, tx endstate.Tx) error { return l.Migrate(ctx, tx) })
		require.NoError(t, errors.Join(errs...))
		_, err := db.settle(t, l, batch(guard.Int(1)), "DONE")
		require.NoError(t, err)
	})
}

// All migrates each of its guards, or says why it couldn't.
func TestAllMigratesEachGuard(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		s := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: terminal} // which has no tables of its own
		one, two := guard.Ledger{Table: "one"}, guard.Ledger{Table: "two"}
		db.migrate(t, guard.All(one, s, two).(guard.Migrator))
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			require.NoError(t, one.Check(ctx, tx))
			require.NoError(t, two.Check(ctx, tx))
		})
		db.failing(t, func(ctx context.Context, tx endstate.Tx) {
			bad := guard.All(guard.Ledger{Schema: "\xff"}, guard.Ledger{Table: "three"})
			require.ErrorIs(t, bad.(guard.Migrator).Migrate(ctx, tx), guard.ErrConfig)
		})
	})
}

// F19: a migration that doesn't commit has not happened, and can be done again.
func TestLedgerMigrateRolledBack(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		db.failing(t, func(ctx context.Context, tx endstate.Tx) { require.NoError(t, guard.Ledger{}.Migrate(ctx, tx)) })
		require.Empty(t, db.schema(t))
		db.migrate(t, guard.Ledger{})
		require.NotEmpty(t, db.schema(t))
	})
}
