package finalize_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// F21: a role that may not write. The error names the table, and nothing is written.
func TestRoleWithoutRights(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		role := "role_" + w.schema
		w.exec("CREATE ROLE " + role + "; GRANT USAGE ON SCHEMA " + w.schema + " TO " + role + "; GRANT SELECT ON ALL TABLES IN SCHEMA " + w.schema + " TO " + role)
		t.Cleanup(func() { w.exec("DROP OWNED BY " + role + "; DROP ROLE " + role) })
		limited := connect(t, w.database, w.guard, w.dsn, w.schema, param("role", role))
		key := w.open("b1")
		denied := func(what string) {
			t.Helper()
			for _, call := range []func() (finalize.Receipt, error){
				func() (finalize.Receipt, error) { return limited.do(t.Context(), key, "threshold", complete("b1")) },
				func() (finalize.Receipt, error) { return limited.settle(t.Context(), key, "threshold", completed()) },
			} {
				_, err := call()
				require.Equal(t, "42501", sqlState(err), "%v", err)
				require.ErrorContains(t, err, what)
				require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
			}
			w.requireOpen("b1")
			limited.requireNothingHeld()
		}
		denied("permission denied for table")
		w.exec("GRANT ALL ON ALL TABLES IN SCHEMA " + w.schema + " TO " + role + "; GRANT ALL ON ALL SEQUENCES IN SCHEMA " + w.schema + " TO " + role)
		w.exec("REVOKE INSERT ON endstate_outbox FROM " + role)
		denied("permission denied for table endstate_outbox")
		w.exec("GRANT INSERT ON endstate_outbox TO " + role)
		r, err := limited.do(t.Context(), guard.Text("b1"), "sweep", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
	}, on("pgx", "sql"))
}
