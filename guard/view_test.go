package guard_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// A view can be guarded if PostgreSQL updates it by itself and each of its rows is one of a table's; any other is named by Check.
func TestViewsAreGuardedOrNamed(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, func(t *testing.T, db *database) {
		db.exec(t, "CREATE TABLE base (id text PRIMARY KEY, status text, tenant text, code text)")
		db.exec(t, "CREATE TABLE other (id text PRIMARY KEY)")
		db.exec(t, "INSERT INTO base VALUES ('a', 'PENDING', 'x', 'c')")
		db.exec(t, "CREATE VIEW plain AS SELECT id, status FROM base WHERE tenant = 'x'")
		db.exec(t, "CREATE VIEW nested AS SELECT id, status FROM plain")
		db.exec(t, "CREATE VIEW renamed AS SELECT code AS number, status FROM base")
		db.exec(t, "CREATE VIEW swapped AS SELECT code AS id, id AS code, status FROM base")
		db.exec(t, "CREATE VIEW again AS SELECT id, status FROM swapped")
		db.exec(t, "CREATE VIEW computed AS SELECT id, upper(status) AS status FROM base")
		db.exec(t, "CREATE VIEW joined AS SELECT b.id, b.status FROM base AS b JOIN other AS o ON o.id = b.tenant")
		db.exec(t, "CREATE VIEW filtered AS SELECT id, status FROM base WHERE tenant IN (SELECT id FROM other)")
		s := func(table, key string) guard.Status {
			return guard.Status{Table: table, Key: key, Column: "status", Terminal: terminal}
		}
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			require.NoError(t, s("plain", "id").Check(ctx, tx))
			require.NoError(t, s("nested", "id").Check(ctx, tx))
			for says, g := range map[string]guard.Status{
				`"renamed" is a view of table "public"."base", which has no unique index over the key columns`: s("renamed", "number"),
				`"swapped" is a view of table "public"."base", which has no unique index over the key columns`: s("swapped", "id"),
				`"again" is a view of table "public"."base", which has no unique index over the key columns`:   s("again", "id"),
				`"computed" is a view of which PostgreSQL can't update the column "status" by itself`:          s("computed", "id"),
				`"joined" is a view of which PostgreSQL can't update the column "status" by itself`:            s("joined", "id"),
				`"filtered" is a view of 2 tables`: s("filtered", "id"),
			} {
				err := g.Check(ctx, tx)
				require.ErrorIs(t, err, guard.ErrSchema)
				require.ErrorContains(t, err, says)
			}
		})
		rec, err := db.settle(t, s("nested", "id"), batch(guard.Text("a")), "COMPLETE_STABLE")
		require.NoError(t, err)
		require.Equal(t, "COMPLETE_STABLE", rec.State)
	})
}

// Tables of one name in two of SQLite's databases are two.
func TestCheckLooksIntoTheNamedSchema(t *testing.T) {
	t.Parallel()
	db := dbtest.SQLite(t)
	db.SetMaxOpenConns(1) // which has attached the other
	for _, statement := range []string{"ATTACH ':memory:' AS other", "CREATE TABLE main.jobs (id text PRIMARY KEY, status text)", "CREATE TABLE other.jobs (id text, status text)"} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	for schema, says := range map[string]string{"": "", "main": "", "other": "has no unique index over its key columns alone"} {
		err := guard.Status{Schema: schema, Table: "jobs", Key: "id", Column: "status", Terminal: terminal}.Check(t.Context(), sqltx.WrapDB(db, sqltx.SQLite))
		if says == "" {
			require.NoError(t, err, schema)
		} else {
			require.ErrorContains(t, err, says)
		}
	}
}
