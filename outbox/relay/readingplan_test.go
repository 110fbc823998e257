package relay

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// The plan of a reading is the same whatever the tables hold and the statistics say: by the primary key and by txid, no more than
// the limit of each. Also a generic one, made when the tables were empty.
func TestAReadingGoesByItsIndexes(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	conn, err := s.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	ctx := t.Context()
	_, err = conn.Exec(ctx, "PREPARE reading AS "+s.store.reading, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	explain := func(mode string) (plan string) {
		tx, err := conn.Begin(ctx)
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Rollback(ctx)) }()
		_, err = tx.Exec(ctx, pins)
		require.NoError(t, err)
		_, err = tx.Exec(ctx, "SET LOCAL plan_cache_mode = "+mode)
		require.NoError(t, err)
		rows, err := tx.Query(ctx, fmt.Sprintf("EXPLAIN (COSTS off) EXECUTE reading ('default', '%s', '[0,1,2,3,4,5,6,7]', 100)", s.lease.id), pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return strings.Join(lines, "\n")
	}
	check := func(when string) {
		for _, mode := range []string{"force_generic_plan", "force_custom_plan"} {
			plan := explain(mode)
			require.NotRegexp(t, `(?m)Seq Scan on endstate_outbox( |$)`, plan, "%s, %s:\n%s", when, mode, plan)
			require.NotContains(t, plan, "Bitmap", "%s, %s:\n%s", when, mode, plan)
			require.Contains(t, plan, "Index Scan using endstate_outbox_txid on endstate_outbox", "%s, %s:\n%s", when, mode, plan)
			require.Equal(t, 2, strings.Count(plan, "Index Scan using endstate_outbox_pkey on endstate_outbox"), "%s, %s:\n%s", when, mode, plan)
		}
	}
	check("empty")
	_, err = conn.Exec(ctx, "ANALYZE")
	require.NoError(t, err)
	check("analyzed while empty")
	s.exec(`INSERT INTO endstate_outbox (partition, id, aggregate_type, aggregate_id, type, payload)
SELECT n % 8, gen_random_uuid(), 'order', n::text, 'paid', '{}' FROM generate_series(1, 100000) n`)
	check("filled")
	_, err = conn.Exec(ctx, "ANALYZE")
	require.NoError(t, err)
	check("analyzed with one transaction's rows")
}
