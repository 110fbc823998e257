package guard_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
)

// F21: a table, a column or an index is missing.
func TestCheckNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql", "sqlite-wal"}, func(t *testing.T, db *database) {
		const whole = `aggregate text NOT NULL, "key" text NOT NULL, state text, "trigger" text, token text, digest text, at text`
		for i, tt := range []struct {
			create string
			says   []string
			guard  guard.Guard
		}{
			{"", []string{`table "t0" does not exist`}, guard.Status{Table: "t0", Key: "id", Column: "status", Terminal: terminal}},
			{"CREATE TABLE t1 (id text PRIMARY KEY, state text)", []string{`table "t1" has no column "status"`, `no column "at"`, `no column "who"`},
				guard.Status{Table: "t1", Key: "id", Column: "status", Terminal: terminal, Set: map[string]any{"at": guard.Now, "who": guard.By}}},
			{"CREATE TABLE t2 (number text PRIMARY KEY, status text)", []string{`no column "id"`}, guard.Status{Table: "t2", Key: "id", Column: "status", Terminal: terminal}},
			{"CREATE TABLE t3 (id text, status text)", []string{"no unique index over its key columns"}, guard.Status{Table: "t3", Key: "id", Column: "status", Terminal: terminal}},
			{"CREATE TABLE t4 (tenant_id text, id text, status text, PRIMARY KEY (tenant_id, id))", []string{"no unique index over its key columns alone"},
				guard.Status{Table: "t4", Key: "id", Column: "status", Terminal: terminal}},
			{"CREATE TABLE t5 (id text, status text); CREATE UNIQUE INDEX t5_open ON t5 (id) WHERE status = 'PENDING'", []string{"no unique index over its key columns"},
				guard.Status{Table: "t5", Key: "id", Column: "status", Terminal: terminal}},
			{"", []string{`table "endstate_ledger" does not exist`, "endstate_ledger (Migrate does"}, guard.Ledger{}},
			{"CREATE TABLE t7 (" + whole + ")", []string{"no unique index over all of its rows on (aggregate, key)", "endstate_ledger (Migrate does"}, guard.Ledger{Table: "t7"}},
			{`CREATE TABLE t8 (aggregate text, "key" text, state text, PRIMARY KEY (aggregate, "key"))`, []string{`no column "trigger"`, `no column "token"`, "_endstate_ledger"}, guard.Ledger{Table: "t8"}},
			{"", []string{`table "t9" does not exist`, `table "endstate_ledger" does not exist`},
				guard.All(guard.Status{Table: "t9", Key: "id", Column: "status", Terminal: terminal}, guard.Ledger{})},
			{"CREATE TABLE t10 (" + whole + `, PRIMARY KEY (aggregate, "key", state))`, []string{"no unique index over all of its rows on (aggregate, key)"}, guard.Ledger{Table: "t10"}},
		} {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				for statement := range strings.SplitSeq(tt.create, ";") {
					if statement != "" {
						db.exec(t, statement)
					}
				}
				db.in(t, func(ctx context.Context, tx endstate.Tx) {
					err := tt.guard.(guard.Checker).Check(ctx, tx)
					require.ErrorIs(t, err, guard.ErrSchema)
					for _, says := range tt.says {
						require.ErrorContains(t, err, says)
					}
				})
			})
		}
	})
}

func TestCheckAcceptsWhatIsThere(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql", "sqlite-wal"}, func(t *testing.T, db *database) {
		db.migrate(t, guard.Ledger{})
		s := func(table string, keys ...string) guard.Status {
			return guard.Status{Table: table, Keys: keys, Column: "status", Terminal: terminal}
		}
		for create, g := range map[string]guard.Guard{
			"CREATE TABLE a (id text PRIMARY KEY, status text)":                                         s("a", "id"),
			"CREATE TABLE b (id text UNIQUE, status text)":                                              s("b", "id"),
			"CREATE TABLE c (id bigint, status text); CREATE UNIQUE INDEX c_id ON c (id)":               s("c", "id"),
			"CREATE TABLE d (tenant_id text, id text, status text, PRIMARY KEY (id, tenant_id))":        s("d", "tenant_id", "id"),
			"CREATE TABLE e (tenant_id text, id text PRIMARY KEY, status text)":                         s("e", "tenant_id", "id"),
			"CREATE TABLE f (id text PRIMARY KEY, status text, extra text, more text, UNIQUE (status))": guard.All(s("f", "id"), guard.Ledger{}),
		} {
			for statement := range strings.SplitSeq(create, ";") {
				db.exec(t, statement)
			}
			db.in(t, func(ctx context.Context, tx endstate.Tx) {
				require.NoError(t, g.(guard.Checker).Check(ctx, tx), create)
			})
		}
		if !db.sqlite {
			db.exec(t, "CREATE TABLE g (id text, status text)")
			db.exec(t, "CREATE UNIQUE INDEX g_id ON g (id) INCLUDE (status)")
			db.in(t, func(ctx context.Context, tx endstate.Tx) {
				require.NoError(t, s("g", "id").Check(ctx, tx), "an index that includes more columns is unique over its own")
				var id string
				require.NoError(t, tx.QueryRow(ctx, "SELECT coalesce(pg_current_xact_id_if_assigned()::text, '')").Scan(&id))
				require.Empty(t, id, "Check writes nothing")
			})
		}
	})
}
