package finalize

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/outbox"
)

// The statement for one and that for many find rows by the key's index, whatever its type, and one looks into one partition.
func TestStatementsGoByTheIndex(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t, func(c *pgxpool.Config) {
		c.MaxConns, c.ConnConfig.RuntimeParams["plan_cache_mode"] = 1, "force_generic_plan"
	})
	exec := func(sql string) { _, err := pool.Exec(t.Context(), sql); require.NoError(t, err, sql) }
	exec(`CREATE TABLE padded (id char(20) PRIMARY KEY, status text); INSERT INTO padded SELECT 'k' || n FROM generate_series(1, 50000) AS n;
CREATE TABLE timed (id bigint, at timestamptz, status text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE timed_january PARTITION OF timed FOR VALUES FROM ('2026-01-01Z') TO ('2026-02-01Z');
CREATE TABLE timed_february PARTITION OF timed FOR VALUES FROM ('2026-02-01Z') TO ('2026-03-01Z');
INSERT INTO timed SELECT n, '2026-01-15Z'::timestamptz + (n % 2) * interval '20 days' FROM generate_series(1, 50000) AS n;
ANALYZE padded; ANALYZE timed`)
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return outbox.Writer{}.Migrate(t.Context(), tx) }))
	for _, tt := range []struct {
		table string
		keys  []string
		key   func(n int) guard.Key
	}{
		{"padded", []string{"id"}, func(n int) guard.Key { return guard.Text(fmt.Sprint("k", n)) }},
		{"timed", []string{"id", "at"}, func(n int) guard.Key {
			return guard.Composite(guard.Int(int64(2*n)), guard.Time(time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)))
		}},
	} {
		s := guard.Status{Table: tt.table, Keys: tt.keys, Column: "status", Terminal: guard.Names("DONE")}
		j := newJoined(guard.All(s).(guards).Plans(tt.key(1).Shape()), outbox.Writer{})
		var calls []*sqlplan.Call
		for n := range 200 {
			calls = append(calls, &sqlplan.Call{Aggregate: "a", Key: tt.key(n + 1).Encode(), Parts: tt.key(n + 1).Args(), State: "DONE", Trigger: "test", Events: []*sqlplan.Event{{}}})
		}
		explain := func(sql string, args []any) string {
			rows, err := pool.Query(t.Context(), "EXPLAIN "+sql, args...)
			require.NoError(t, err)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err)
			return strings.Join(lines, "\n")
		}
		one := explain(j.settle[0]().SQL, j.settle[0]().Args(calls[0]))
		require.Contains(t, one, "Index Cond")
		require.NotContains(t, one, "Seq Scan on "+tt.table)
		require.NotContains(t, one, "timed_february")
		// A connection keeps the plan for any number of calls, and may have made it before the table grew.
		events := sqlplan.ColumnsMany(calls)
		for _, st := range []sqlplan.BulkStatement{j.bulk.any.hopeful(), j.bulk.any.careful(), j.bulk.each.hopeful(), j.bulk.each.careful(), j.bulk.read()} {
			var given []any
			if strings.Contains(st.SQL, "AS endstate_event ") {
				given = events
			}
			nulls := strings.TrimPrefix(strings.Repeat(", NULL", len(st.Args(given, calls))), ", ")
			exec("PREPARE many AS " + st.SQL)
			many := explain("EXECUTE many ("+nulls+")", nil)
			exec("DEALLOCATE many")
			require.Contains(t, many, "Index Cond")
			require.NotContains(t, many, "Seq Scan on "+tt.table)
		}
	}
}
