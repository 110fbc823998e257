package guard_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
)

// tableWrites are what PostgreSQL's statistics, by which vacuum goes, say of a table.
type tableWrites struct{ inserted, updated, deleted, dead int }

// A hundred losers that come after the winner's commit are assigned no transaction id and leave no dead tuple behind. What
// one row version would look like is shown by a control.
func TestLosersLeaveNoDeadTuples(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	for _, name := range []string{"status", "ledger", "all"} {
		t.Run(name, func(t *testing.T) {
			table, ledger := name+"_batches", name+"_ledger"
			s, l := db.status(t, table), guard.Ledger{Table: ledger}
			db.migrate(t, l)
			db.exec(t, "ALTER TABLE "+table+" SET (autovacuum_enabled = off)")
			db.exec(t, "ALTER TABLE "+ledger+" SET (autovacuum_enabled = off)")
			g := map[string]guard.Guard{"status": s, "ledger": l, "all": guard.All(s, l)}[name]
			ref := batch(guard.Text("b1"))

			// All on one connection, whose statistics are complete once it has ended.
			ctx := t.Context()
			acquired, err := db.pool.Acquire(ctx)
			require.NoError(t, err)
			conn := acquired.Hijack()
			defer conn.Close(ctx)
			exec := func(query string) {
				_, err := conn.Exec(ctx, query)
				require.NoError(t, err)
			}
			in := func(f func(tx pgx.Tx)) {
				tx, err := conn.Begin(ctx)
				require.NoError(t, err)
				f(tx)
				require.NoError(t, tx.Commit(ctx))
			}
			exec("INSERT INTO " + table + " (id, status) VALUES ('b1', 'PENDING')")
			in(func(tx pgx.Tx) {
				_, err := g.Claim(ctx, tx, ref)
				require.NoError(t, err)
				_, err = g.Settle(ctx, tx, ref, transition("COMPLETE_STABLE"))
				require.NoError(t, err)
			})
			for range 100 {
				in(func(tx pgx.Tx) {
					rec, err := g.Claim(ctx, tx, ref)
					require.NoError(t, err)
					require.True(t, rec.Final)
					_, err = g.Settle(ctx, tx, ref, transition("ERROR_PROCESSING"))
					require.ErrorIs(t, err, guard.ErrNotOpen)
					var id string
					require.NoError(t, tx.QueryRow(ctx, "SELECT coalesce(pg_current_xact_id_if_assigned()::text, '')").Scan(&id))
					require.Empty(t, id)
				})
			}
			exec("UPDATE " + table + " SET note = 'control'")
			require.NoError(t, conn.Close(ctx))

			wantStatus, wantLedger := tableWrites{1, 1, 0, 1}, tableWrites{}
			if name != "ledger" {
				wantStatus = tableWrites{1, 2, 0, 2} // the winner's, too
			}
			if name != "status" {
				wantLedger = tableWrites{1, 0, 0, 0}
			}
			for db.writes(t, table).updated < wantStatus.updated {
				require.NoError(t, ctx.Err())
			}
			require.Equal(t, wantStatus, db.writes(t, table))
			require.Equal(t, wantLedger, db.writes(t, ledger))
		})
	}
}

func (db *database) writes(t *testing.T, table string) (w tableWrites) {
	t.Helper()
	require.NoError(t, db.pool.QueryRow(t.Context(), "SELECT n_tup_ins, n_tup_upd, n_tup_del, n_dead_tup FROM pg_stat_user_tables WHERE relname = $1", table).
		Scan(&w.inserted, &w.updated, &w.deleted, &w.dead))
	return w
}
