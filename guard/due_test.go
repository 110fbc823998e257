package guard_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
)

func due(t *testing.T, g guard.DueFinder, q endstate.Querier, idle time.Duration) (keys []guard.Key) {
	t.Helper()
	find, err := g.Due(idle)
	require.NoError(t, err)
	for key, err := range find(t.Context(), q) {
		require.NoError(t, err)
		keys = append(keys, key)
	}
	return keys
}

// Keys of every kind come in order and in pages, whatever decides which states are terminal.
func TestDueKeysOfEveryKind(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pool := dbtest.Pool(t)
	db := dbtest.SQLOn(t, dbtest.Postgres(t))
	lite := dbtest.SQLite(t)
	for name, on := range map[string]struct {
		q    endstate.Querier
		exec func(query string)
	}{
		"pgx":    {pool, func(query string) { _, err := pool.Exec(ctx, query); require.NoError(t, err) }},
		"sql":    {sqltx.WrapDB(db, sqltx.Postgres), func(query string) { _, err := db.ExecContext(ctx, query); require.NoError(t, err) }},
		"sqlite": {sqltx.WrapDB(lite, sqltx.SQLite), func(query string) { _, err := lite.ExecContext(ctx, query); require.NoError(t, err) }},
	} {
		t.Run(name, func(t *testing.T) {
			isLite := name == "sqlite"
			now := "now()"
			if isLite {
				now = "CURRENT_TIMESTAMP"
			}
			const rows = 1200
			id := func(n int) string { return fmt.Sprintf("6ba7b810-9dad-11d1-80b4-%012d", n) }
			on.exec("CREATE TABLE jobs (tenant uuid, n int, code varchar(20), state varchar(20), touched timestamptz, PRIMARY KEY (tenant, n))")
			on.exec("CREATE UNIQUE INDEX jobs_code ON jobs (code)")
			var values []string
			for n := range rows {
				state, touched := "'OPEN'", "'2025-11-15 18:59:43'"
				switch n % 6 {
				case 1:
					state = "'COMPLETE_STABLE'"
				case 2:
					state = "NULL"
				case 3:
					touched = now
				case 4:
					state = "'complete_stable'" // another state
				case 5:
					touched = "NULL"
				}
				values = append(values, fmt.Sprintf("('%s', %d, 'c%05d', %s, %s)", id(n/2), n%2, n, state, touched))
			}
			on.exec("INSERT INTO jobs VALUES " + strings.Join(values, ", "))
			for _, terminal := range []guard.States{guard.Prefixes("COMPLETE"), guard.Names("COMPLETE_STABLE"), guard.Func(func(s string) bool { return s == "COMPLETE_STABLE" })} {
				s := guard.Status{Table: "jobs", Keys: []string{"tenant", "n"}, Column: "state", Terminal: terminal, Touched: "touched"}
				keys := due(t, s, on.q, time.Hour)
				codes := due(t, guard.Status{Table: "jobs", Key: "code", Column: "state", Terminal: terminal, Touched: "touched"}, on.q, time.Hour)
				at := 0
				for n := range rows {
					if n%6 == 1 || n%6 == 3 {
						continue
					}
					tenant, err := guard.ParseUUID(id(n / 2))
					require.NoError(t, err)
					if isLite {
						tenant = guard.Text(id(n / 2))
					}
					require.Equal(t, guard.Composite(tenant, guard.Int(int64(n%2))), keys[at])
					require.Equal(t, guard.Text(fmt.Sprintf("c%05d", n)), codes[at])
					at++
				}
				require.Len(t, keys, at)
				require.Len(t, codes, at)
				// The keys are those by which the guard finds the rows.
				_, err := s.Read(ctx, on.q, guard.Ref{Aggregate: "job", Key: keys[0]})
				require.NoError(t, err)
			}
		})
	}
}

// Between two pages rows come and go: none that stays is missed or found twice.
func TestDueWhileRowsComeAndGo(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pool := dbtest.Pool(t)
	_, err := pool.Exec(ctx, `CREATE TABLE jobs (id bigint PRIMARY KEY, state text, touched timestamptz); INSERT INTO jobs SELECT n * 2, 'OPEN' FROM generate_series(1, 1300) n`)
	require.NoError(t, err)
	s := guard.Status{Table: "jobs", Key: "id", Column: "state", Terminal: guard.Names("DONE"), Touched: "touched"}
	find, err := s.Due(0)
	require.NoError(t, err)
	seen := map[guard.Key]int{}
	for key, err := range find(ctx, pool) {
		require.NoError(t, err)
		seen[key]++
		_, err = pool.Exec(ctx, "UPDATE jobs SET state = 'DONE' WHERE id = $1", key.Args()...) // as a sweep does
		require.NoError(t, err)
		if len(seen) == 700 {
			_, err = pool.Exec(ctx, "INSERT INTO jobs VALUES (1, 'OPEN'), (2399, 'OPEN')")
			require.NoError(t, err)
		}
	}
	require.Equal(t, 1301, len(seen), "and one of the two that came")
	for key, n := range seen {
		require.Equal(t, 1, n, "%v", key)
	}
}

// The index is one that PostgreSQL uses: among many final rows it reads the open ones.
func TestDueIndexIsUsed(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pool := dbtest.Pool(t)
	_, err := pool.Exec(ctx, `CREATE TABLE jobs (id bigint PRIMARY KEY, state text, touched timestamptz);
INSERT INTO jobs SELECT n, CASE WHEN n % 1000 = 0 THEN 'OPEN' ELSE 'COMPLETE_''x\' END FROM generate_series(1, 20000) n`)
	require.NoError(t, err)
	s := guard.Status{Table: "jobs", Key: "id", Column: "state", Terminal: guard.Prefixes("COMPLETE_'x\\", "ERROR"), Touched: "touched"}
	_, err = pool.Exec(ctx, s.DueIndex())
	require.NoError(t, err)
	_, err = pool.Exec(ctx, "VACUUM ANALYZE jobs")
	require.NoError(t, err)
	explained := &explainer{Querier: pool}
	require.Empty(t, due(t, s, explained, time.Hour), "it was only explained")
	require.Contains(t, explained.plan, "jobs_open")
	require.NotContains(t, explained.plan, "Seq Scan")
	require.Len(t, due(t, s, pool, time.Hour), 20)
	require.Empty(t, guard.Status{Terminal: guard.Func(func(string) bool { return false })}.DueIndex())
}

// explainer notes how its queries would run, and runs ones that find nothing.
type explainer struct {
	endstate.Querier
	plan string
}

func (e *explainer) Query(ctx context.Context, query string, args ...any) (pgx.Rows, error) {
	if strings.Contains(query, "pg_catalog") {
		return e.Querier.Query(ctx, query, args...)
	}
	if err := e.explain(ctx, query, args); err != nil {
		return nil, err
	}
	return e.Querier.Query(ctx, "SELECT WHERE false")
}

// QueryRow runs the query after all.
func (e *explainer) QueryRow(ctx context.Context, query string, args ...any) pgx.Row {
	if err := e.explain(ctx, query, args); err != nil {
		e.plan += err.Error()
	}
	return e.Querier.QueryRow(ctx, query, args...)
}

func (e *explainer) explain(ctx context.Context, query string, args []any) error {
	rows, err := e.Querier.Query(ctx, "EXPLAIN "+query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return err
		}
		e.plan += line + "\n"
	}
	rows.Close()
	return rows.Err()
}

func TestDueThatCant(t *testing.T) {
	t.Parallel()
	s := guard.Status{Table: "jobs", Key: "id", Column: "state", Terminal: guard.Names("DONE")}
	_, err := s.Due(time.Hour)
	require.ErrorIs(t, err, guard.ErrConfig)
	require.ErrorContains(t, err, "Status.Touched is empty")
	_, err = guard.All(guard.Ledger{}, s).(guard.DueFinder).Due(time.Hour)
	require.ErrorContains(t, err, "Status.Touched is empty")
	_, err = guard.All(guard.Ledger{}).(guard.DueFinder).Due(time.Hour)
	require.ErrorContains(t, err, "none of the guards")
	s.Touched = "touched"
	_, err = s.Due(-1)
	require.ErrorContains(t, err, "idle is")
	s.Touched = strings.Repeat("x", 64)
	require.ErrorContains(t, s.Validate(), "Status.Touched is 64 bytes long")

	s.Touched = "touched"
	find, err := guard.All(guard.Ledger{}, s).(guard.DueFinder).Due(time.Hour)
	require.NoError(t, err)
	n := 0
	for _, err := range find(t.Context(), sqltx.WrapDB(dbtest.SQLite(t), sqltx.SQLite)) {
		require.ErrorContains(t, err, `guard: look for due rows of "jobs"`)
		n++
	}
	require.Equal(t, 1, n, "it ends after an error")
}
