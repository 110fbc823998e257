package finalize_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// A loser who comes after the winner's commit writes nothing (I8). On a server of its own, where nobody else does, the next
// transaction id tells: whatever writes takes one.
func TestALaterLoserTakesNoTransactionID(t *testing.T) {
	server := dbtest.StartPostgres(t, "autovacuum=off")
	for _, database := range []string{"pgx", "sql"} {
		for _, g := range guards {
			t.Run(database+"/"+g, func(t *testing.T) {
				w := newWorld(t, database, g, dbtest.Database(t, server.URL()))
				key := w.open("b")
				r, err := w.do(t.Context(), key, "winner", complete("b"))
				require.NoError(t, err)
				require.True(t, r.Won)

				next := func() string {
					return w.text(`SELECT pg_snapshot_xmax(pg_current_snapshot())::text`)[0]
				}
				before := next()
				require.Equal(t, before, next(), "looking takes none")
				for range 20 {
					r, err := w.do(t.Context(), key, "loser", never(t))
					require.NoError(t, err)
					require.False(t, r.Won)
					r, err = w.settle(t.Context(), key, "loser", completed())
					require.NoError(t, err)
					require.False(t, r.Won)
				}
				require.Equal(t, before, next())

				tx, err := w.begin(t.Context(), "")
				require.NoError(t, err)
				r, err = tx.doTx(t.Context(), key, "loser", never(t))
				require.NoError(t, err)
				require.False(t, r.Won)
				var id *string
				require.NoError(t, tx.QueryRow(t.Context(), `SELECT pg_current_xact_id_if_assigned()::text`).Scan(&id))
				require.Nil(t, id)
				require.NoError(t, tx.Commit(t.Context()))
				require.Equal(t, before, next())

				// The test would notice: a claim of an open aggregate takes an id.
				_, err = w.do(t.Context(), guard.Text(w.also("c")), "winner", complete("c"))
				require.NoError(t, err)
				require.NotEqual(t, before, next())
			})
		}
	}
}

// also adds another open batch.
func (w *world) also(id string) string {
	w.open(id)
	return id
}

// And it adds no dead tuple, in none of the tables.
func TestALaterLoserAddsNoDeadTuple(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.exec("CREATE EXTENSION IF NOT EXISTS pgstattuple SCHEMA public")
		tuples := func() []string {
			return w.text(`SELECT relname || ' ' || live.tuple_count || ' ' || live.dead_tuple_count FROM pg_class, public.pgstattuple(oid) AS live
				WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace ORDER BY relname`)
		}
		key := w.open("b1")
		open := tuples()
		_, err := w.do(t.Context(), key, "winner", complete("b1"))
		require.NoError(t, err)
		won := tuples()
		require.NotEqual(t, open, won, "a winner is seen")
		for range 10 {
			_, err := w.do(t.Context(), key, "loser", never(t))
			require.NoError(t, err)
			_, err = w.settle(t.Context(), key, "loser", completed())
			require.NoError(t, err)
			tx, err := w.begin(t.Context(), "")
			require.NoError(t, err)
			_, err = tx.doTx(t.Context(), key, "loser", never(t))
			require.NoError(t, err)
			require.NoError(t, tx.Commit(t.Context()))
		}
		require.Equal(t, won, tuples())
	}, on("pgx", "sql"))
}

// On SQLite a loser doesn't wait for the one write lock, if its guard can be read without.
func TestALaterLoserTakesNoWriteLockOnSQLite(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		_, err := w.do(t.Context(), key, "winner", complete("b1"))
		require.NoError(t, err)
		writer, err := w.db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		_, err = writer.ExecContext(t.Context(), "INSERT INTO writes VALUES ('another', '')")
		require.NoError(t, err)
		for range 10 {
			r, err := w.do(t.Context(), key, "loser", never(t))
			require.NoError(t, err)
			require.False(t, r.Won)
			r, err = w.settle(t.Context(), key, "loser", completed())
			require.NoError(t, err)
			require.False(t, r.Won)
		}
		require.NoError(t, writer.Rollback())
	}, on("sqlite"), guardedBy("status", "ledger", "all"))
}
