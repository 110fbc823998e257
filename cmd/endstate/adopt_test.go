package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

func TestAdopt(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	db := dbtest.SQLOn(t, url)
	incident(t, db)
	r := cli(t, url, "adopt", "plan")
	require.Equal(t, 1, r.status, r.stderr)
	require.Contains(t, r.stdout, "rows to remove  94\n")
	require.Contains(t, r.stdout, "CREATE UNIQUE INDEX CONCURRENTLY")
	r = cli(t, url, "adopt", "apply", "--add-column", "headers=jsonb")
	require.Zero(t, r.status, r.stderr)
	require.Contains(t, r.stdout, "94 rows were moved")
	require.Contains(t, r.stderr, "unique index", "its log, where no person looks")
	require.Zero(t, cli(t, url, "audit", "db", "--table", "event_outbox").status)
	require.Zero(t, cli(t, url, "adopt", "plan").status)
	examine(t, url, []string{"relay-index"}, "--table", "event_outbox")
	r = cli(t, url, "adopt", "undo", "--json")
	require.EqualValues(t, 94, decode[map[string]any](t, r)["moved"])
	r = cli(t, url, "audit", "db", "--table", "event_outbox", "--json")
	require.Equal(t, 376.0, decode[map[string]any](t, r)["duplicate_percentage"])
	r = cli(t, url, "adopt", "undo")
	require.Equal(t, 2, r.status)
	require.Contains(t, r.stderr, "nothing to undo")

	path := filepath.Join(t.TempDir(), "x.db")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	r = cli(t, path, "adopt", "plan")
	require.Equal(t, 2, r.status)
	require.Contains(t, r.stderr, "adopt is for PostgreSQL")
	require.Equal(t, 2, cli(t, url, "adopt", "apply", "--add-column", "headers").status)
}

// The ledger is filled from rows that were terminal before it was there, and the doctor is content.
func TestAdoptTheLedger(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	db := dbtest.SQLOn(t, url)
	healthy(t, url, db)
	mustExec(t, db, "INSERT INTO batches SELECT n, 'COMPLETE_MAX_COMPARISONS' FROM generate_series(100, 2600) n")
	doctor := append([]string{"--full", "--skip", "protection", "--skip", "terminal-without-event"}, ofBatches...)
	examine(t, url, []string{"status-without-ledger"}, doctor...)
	fill := []string{"--ledger-from", "batches", "--aggregate-type", "batch", "--json"}
	for _, step := range []struct {
		use            string
		status, filled int
	}{{"plan", 1, 2501}, {"apply", 0, 2501}, {"plan", 0, 0}, {"apply", 0, 0}} {
		r := cli(t, url, append([]string{"adopt", step.use}, fill...)...)
		require.Equal(t, step.status, r.status, r.stderr)
		require.EqualValues(t, step.filled, decode[fillResult](t, r).Filled)
	}
	examine(t, url, []string{}, doctor...)
	r := cli(t, url, append([]string{"adopt", "undo"}, fill...)...)
	require.EqualValues(t, 2501, decode[fillResult](t, r).Filled)
	examine(t, url, []string{"status-without-ledger"}, doctor...)
	r = cli(t, url, "adopt", "apply", "--ledger-from", "batches")
	require.Equal(t, 2, r.status)
	require.Contains(t, r.stderr, "--aggregate-type")
}

// adopted is a table under adoption while a writer goes on, which writes duplicates, too.
type adopted struct {
	db      *sql.DB
	written []string
	stop    func()
}

const kept = `SELECT id FROM event_outbox UNION ALL SELECT id FROM event_outbox_endstate_removed`

func newAdopted(t testing.TB, db *sql.DB) *adopted {
	t.Helper()
	mustExec(t, db, "DROP TABLE IF EXISTS event_outbox, event_outbox_endstate_removed, endstate_adoptions", "DROP FUNCTION IF EXISTS event_outbox_endstate_adopting",
		"CREATE TABLE event_outbox (id text PRIMARY KEY, aggregate_id text, event_type text, created_at timestamptz DEFAULT now(), published_at timestamptz)",
		"INSERT INTO event_outbox (id, aggregate_id, event_type, published_at) SELECT 'old-' || n, 'b' || n % 7, 'done', CASE n % 3 WHEN 0 THEN now() END FROM generate_series(1, 30) n")
	a := &adopted{db: db}
	for n := 1; n <= 30; n++ {
		a.written = append(a.written, fmt.Sprint("old-", n))
	}
	ctx, cancel := context.WithCancel(context.Background())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			id := fmt.Sprint("new-", i)
			_, err := db.Exec("INSERT INTO event_outbox (id, aggregate_id, event_type) VALUES ($1, $2, 'done')", id, fmt.Sprint("b", i%11))
			if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "23505" {
				continue
			}
			if err != nil {
				t.Errorf("the writer got %v", err)
				return
			}
			a.written = append(a.written, id)
		}
	})
	a.stop = sync.OnceFunc(func() { cancel(); writer.Wait() })
	t.Cleanup(a.stop)
	return a
}

// whole asserts that each row that was written is in the table or in its backup, once.
func (a *adopted) whole(t testing.TB, query string) {
	t.Helper()
	a.stop()
	rows, err := a.db.Query(query)
	require.NoError(t, err)
	defer rows.Close()
	have := map[string]int{}
	for rows.Next() {
		var id string
		require.NoError(t, rows.Scan(&id))
		have[id]++
	}
	require.NoError(t, rows.Err())
	require.Len(t, have, len(a.written))
	for _, id := range a.written {
		require.Equal(t, 1, have[id], id)
	}
}

// ready asserts that the adoption is complete.
func (a *adopted) ready(t testing.TB) {
	t.Helper()
	a.whole(t, kept)
	var duplicates, leftovers int
	require.NoError(t, a.db.QueryRow("SELECT count(*) FROM (SELECT FROM event_outbox GROUP BY aggregate_id, event_type HAVING count(*) > 1) d").Scan(&duplicates))
	require.Zero(t, duplicates)
	require.NoError(t, a.db.QueryRow(`SELECT (SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%endstate%') + (SELECT count(*) FROM pg_class WHERE relname LIKE '%endstate_helper')
+ (SELECT count(*) FROM pg_index WHERE NOT indisvalid)`).Scan(&leftovers))
	require.Zero(t, leftovers)
	_, err := a.db.Exec("INSERT INTO event_outbox (id, aggregate_id, event_type) VALUES ('late', 'b1', 'done')")
	pg, ok := errors.AsType[*pgconn.PgError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, "event_outbox_endstate_unique", pg.ConstraintName)
}

// F25: a run is killed at each of its statements, with a writer at work, and the next one ends right. The statement that it was
// about to send, or waited for, still reaches the server.
func TestAdoptIsKilled(t *testing.T) {
	t.Parallel()
	const workers = 4
	for worker := range workers {
		t.Run(fmt.Sprint(worker), func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			db := dbtest.SQLOn(t, url)
			proxy := pgfault.New(t, url)
			kills, undone := 0, 0
			for n := worker; ; n += workers {
				a := newAdopted(t, db)
				if !killed(t, proxy, n, "adopt", "apply", "--batch", "3") {
					a.stop()
					break
				}
				kills++
				r := cli(t, url, "adopt", "apply", "--batch", "3")
				require.Zero(t, r.status, "after a kill at statement %d: %s", n, r.stderr)
				a.ready(t)
				if n%3 != 0 {
					continue
				}
				// And so is undoing, from which all that was written comes back.
				if killed(t, proxy, n/3, "adopt", "undo", "--batch", "5") {
					undone++
				}
				r = cli(t, url, "adopt", "undo", "--batch", "5")
				if r.status != 0 { // it was through
					require.Contains(t, r.stderr, "nothing to undo", "after a kill at statement %d", n/3)
				}
				a.whole(t, "SELECT id FROM event_outbox")
			}
			require.Greater(t, kills, 5)
			require.Positive(t, undone)
		})
	}
}

// killed runs the program through the proxy and kills it at its n-th statement, from 0. It reports whether there was one.
func killed(t testing.TB, proxy *pgfault.Proxy, n int, args ...string) bool {
	t.Helper()
	fault := proxy.Arm(&pgfault.Fault{Do: pgfault.Hold, Skip: n})
	run := start(t, proxy.URL(), args...)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = run.Wait()
	}()
	select {
	case <-fault.Fired():
		require.NoError(t, run.Process.Kill())
		<-ended
		fault.Release()
		return true
	case <-ended:
		require.Zero(t, run.ProcessState.ExitCode(), run.stderr.String())
		// It had fewer statements: let the fault strike another's.
		db, err := sql.Open("pgx", proxy.URL())
		require.NoError(t, err)
		defer db.Close()
		struck := make(chan struct{})
		go func() {
			defer close(struck)
			for !errors.Is(db.Ping(), sql.ErrConnDone) {
				select {
				case <-fault.Fired():
					return
				default:
				}
			}
		}()
		<-fault.Fired()
		fault.Release()
		<-struck
		return false
	}
}

// F25: a run that is killed while it builds an index concurrently leaves that invalid. The next one builds it anew.
func TestAdoptIsKilledWhileItBuilds(t *testing.T) {
	t.Parallel()
	for _, statement := range []string{"CREATE INDEX CONCURRENTLY", "CREATE UNIQUE INDEX CONCURRENTLY"} {
		t.Run(statement, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			db := dbtest.SQLOn(t, url)
			a := newAdopted(t, db)
			waits := "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE $1 || '%' AND state = 'active'"
			// A builder waits for transactions that wrote to the table, and then for those with older snapshots. What is held
			// here is such a writer, begun when the statement before has run.
			proxy := pgfault.New(t, url)
			fault := proxy.Arm(&pgfault.Fault{SQL: statement, Do: pgfault.Hold})
			run := start(t, proxy.URL(), "adopt", "apply")
			<-fault.Fired()
			tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
			require.NoError(t, err)
			defer func() { _ = tx.Rollback() }()
			_, err = tx.Exec("INSERT INTO event_outbox (id, aggregate_id, event_type) VALUES ('held', 'b-held', 'done')")
			require.NoError(t, err)
			fault.Release()
			count := func(query string, args ...any) (n int) {
				require.NoError(t, db.QueryRow(query, args...).Scan(&n))
				return n
			}
			require.Eventually(t, func() bool {
				return count("SELECT count(*) FROM pg_index WHERE NOT indisvalid AND indrelid = 'event_outbox'::regclass") == 1 && count(waits, statement) == 1
			}, time.Minute, time.Millisecond)
			require.NoError(t, run.Process.Kill())
			_ = run.Wait()
			require.Eventually(t, func() bool { return count(waits, statement) == 0 }, time.Minute, 10*time.Millisecond, "the server notices")
			require.Equal(t, 1, count("SELECT count(*) FROM pg_index WHERE NOT indisvalid"))
			require.NoError(t, tx.Commit())

			r := cli(t, url, "adopt", "apply")
			require.Zero(t, r.status, r.stderr)
			a.stop()
			a.written = append(a.written, "held")
			a.ready(t)
		})
	}
}

// F25: two runs at once take turns.
func TestAdoptTwiceAtOnce(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	a := newAdopted(t, dbtest.SQLOn(t, url))
	proxy := pgfault.New(t, url)
	fault := proxy.Arm(&pgfault.Fault{Match: func(sql string) bool { return strings.Contains(sql, "SET step = ") }, Do: pgfault.Hold})
	first := start(t, proxy.URL(), "adopt", "apply", "--batch", "2")
	<-fault.Fired()
	second := start(t, url, "adopt", "apply", "--batch", "3")
	require.Eventually(t, func() bool { return strings.Contains(second.stderr.String(), "another run is at work") }, long, 10*time.Millisecond)
	fault.Release()
	for _, run := range []*running{first, second} {
		r := run.wait(t)
		require.Zero(t, r.status, r.stderr)
	}
	a.ready(t)
}

// A signal ends a run, and the next one goes on from there.
func TestAdoptIsInterrupted(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	db := dbtest.SQLOn(t, url)
	a := newAdopted(t, db)
	tx, err := db.Begin()
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	_, err = tx.Exec("SELECT FROM event_outbox WHERE id = 'old-30' FOR UPDATE")
	require.NoError(t, err)
	run := start(t, url, "adopt", "apply", "--lock-timeout", "50ms")
	require.Eventually(t, func() bool {
		var waits bool
		err := db.QueryRow("SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'endstate' AND wait_event_type = 'Lock'").Scan(&waits)
		return err == nil && waits
	}, time.Minute, time.Millisecond)
	require.NoError(t, run.Process.Signal(os.Interrupt))
	r := run.wait(t)
	require.Equal(t, 2, r.status)
	require.Contains(t, r.stderr, "interrupt")
	require.NoError(t, tx.Rollback())
	require.Zero(t, cli(t, url, "adopt", "apply").status)
	a.ready(t)
}
