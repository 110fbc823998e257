package outbox_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// Where values come as text, drivers read times and bytes in one of PostgreSQL's forms only. That shows at start, rather than when
// something is committed already.
func TestCheckSaysWhatTheDriverCantRead(t *testing.T) {
	t.Parallel()
	server := dbtest.Postgres(t)
	w := outbox.Writer{}
	require.NoError(t, pgx.BeginFunc(t.Context(), dbtest.PoolOn(t, server), func(tx pgx.Tx) error { return w.Migrate(t.Context(), tx) }))
	for options, says := range map[string]string{
		"":                                       "",
		"&options=-c%20datestyle%3DSQL":          `DateStyle is "SQL, MDY"`,
		"&options=-c%20bytea_output%3Descape":    `bytea_output "escape"`,
		"&options=-c%20intervalstyle%3Diso_8601": "",
	} {
		for mode, text := range map[string]bool{"cache_statement": false, "exec": true, "simple_protocol": true} {
			pgxWay := dbtest.PoolOn(t, server+"&default_query_exec_mode="+mode+options)
			db := stdlib.OpenDBFromPool(pgxWay)
			tx, err := db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			for _, err := range []error{w.Check(t.Context(), endstate.PostgresTx(tx)), pgx.BeginFunc(t.Context(), pgxWay, func(tx pgx.Tx) error { return w.Check(t.Context(), tx) })} {
				if text && says != "" {
					require.ErrorIs(t, err, outbox.ErrSchema, mode)
					require.ErrorContains(t, err, says)
				} else {
					require.NoError(t, err, mode+options)
				}
			}
			require.NoError(t, tx.Rollback())
			require.NoError(t, db.Close())
		}
	}
}
