package main

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
)

type doctorReport struct {
	Checks   []string  `json:"checks"`
	Findings []finding `json:"findings"`
}

// found are the names of the checks that found something.
func (r doctorReport) found() []string {
	list := []string{}
	for _, f := range r.Findings {
		list = append(list, f.Check)
	}
	return list
}

// examine runs the doctor, which has to find exactly these, and returns its report.
func examine(t testing.TB, url string, found []string, args ...string) doctorReport {
	t.Helper()
	r := cli(t, url, append([]string{"doctor", "--json"}, args...)...)
	require.Empty(t, r.stderr)
	report := decode[doctorReport](t, r)
	require.Equal(t, found, report.found(), "%+v", report.Findings)
	require.Equal(t, min(len(found), 1), r.status)
	for _, f := range report.Findings {
		require.NotEmpty(t, f.What)
		require.NotEmpty(t, f.Why)
		require.NotEmpty(t, f.Fix)
	}
	return report
}

// healthy is a database with the library's tables, a relay, and a finalized batch.
func healthy(t testing.TB, url string, db *sql.DB) {
	t.Helper()
	require.Zero(t, cli(t, url, "migrate").status)
	mustExec(t, db,
		"INSERT INTO endstate_outbox_subscriptions (name, types, destination, start) VALUES ('default', '[]', '', 'begin')",
		"INSERT INTO endstate_outbox_relays (id, subscription, name, expires_at) VALUES ('6ba7b810-9dad-11d1-80b4-00c04fd430c8', 'default', 'test', '2100-01-01T00:00:00.000Z')",
		cursorsOf(url),
		"CREATE TABLE batches (id integer PRIMARY KEY, status text)",
		"INSERT INTO batches VALUES (1, 'COMPLETE_STABLE'), (2, 'PENDING'), (3, NULL)",
	)
	finalized(t, db, "batch", "i:1", "1")
	finalized(t, db, "odd/kind#", "t:a%2Fb%25%23", "a/b%#")
	finalized(t, db, "pair", "u:6ba7b810-9dad-11d1-80b4-00c04fd430c8/t:a%2Fb%25%23/i:-5", "6ba7b810-9dad-11d1-80b4-00c04fd430c8/a%2Fb%25#/-5")
}

// cursorsOf makes the cursors of the default subscription, which the relay owns.
func cursorsOf(url string) string {
	if !strings.HasPrefix(url, "postgres") {
		return `WITH RECURSIVE n (p) AS (VALUES (0) UNION ALL SELECT p + 1 FROM n WHERE p < 7)
INSERT INTO endstate_outbox_cursors (subscription, partition, token, owner) SELECT 'default', p, 'x', (SELECT id FROM endstate_outbox_relays) FROM n`
	}
	return `INSERT INTO endstate_outbox_cursors (subscription, partition, token, owner, snapshot, cluster)
SELECT 'default', p, gen_random_uuid(), (SELECT id FROM endstate_outbox_relays), pg_current_snapshot(), system_identifier FROM generate_series(0, 7) p, pg_control_system()`
}

// finalized puts an entry into the ledger and its event into the outbox, as finalize does.
func finalized(t testing.TB, db *sql.DB, aggregate, key, id string) {
	t.Helper()
	mustExec(t, db,
		fmt.Sprintf(`INSERT INTO endstate_ledger (aggregate, "key", state, "trigger", token, at) VALUES ('%s', '%s', 'COMPLETE_STABLE', 'test', '6ba7b810-9dad-11d1-80b4-00c04fd430c8', '2100-01-01T00:00:00.000Z')`, aggregate, key),
		putEvent(db, aggregate, key, id))
}

func putEvent(db *sql.DB, aggregate, key, id string) string {
	payload := "'{}'"
	if strings.Contains(fmt.Sprintf("%T", db.Driver()), "sqlite") {
		payload = "CAST('{}' AS BLOB)"
	}
	escaped := strings.NewReplacer("%", "%25", "/", "%2F", "#", "%23").Replace(aggregate)
	uuid := fmt.Sprintf("%08x-0000-7000-8000-000000000000", time.Now().UnixNano()&0xffffffff)
	return fmt.Sprintf(`INSERT INTO endstate_outbox (id, aggregate_type, aggregate_id, partition, type, payload, content_type, headers, occurred_at, dedup_key, schema_version)
VALUES ('%s', '%s', '%s', 0, 'completed', %s, 'application/json', '{}', '2025-11-15T12:00:00.000Z', '%s/%s#completed', 1)`, uuid, aggregate, id, payload, escaped, key)
}

var ofBatches = []string{"--status-table", "batches", "--terminal", "COMPLETE", "--terminal", "ERROR", "--aggregate-type", "batch"}

func TestDoctorFindsNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		healthy(t, url, db)
		report := examine(t, url, []string{})
		require.Contains(t, report.Checks, "terminal-without-event")
		require.Equal(t, strings.HasPrefix(url, "postgres"), slices.Contains(report.Checks, "listen"))
		r := cli(t, url, "doctor", "--full")
		require.Contains(t, r.stdout, "0 findings from ")
		require.Zero(t, r.status)
	})
}

func TestDoctorFindsMissingTables(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		report := examine(t, url, []string{"tables", "tables"})
		require.Equal(t, []string{"tables"}, report.Checks)
		require.Equal(t, migrateFix, report.Findings[0].Fix)
		require.Zero(t, cli(t, url, "migrate").status)
		examine(t, url, []string{"partitions"})
		mustExec(t, db, "ALTER TABLE endstate_outbox DROP COLUMN created_at")
		require.Contains(t, examine(t, url, []string{"tables"}).Findings[0].What, `no column "created_at"`)
	})
}

func TestDoctorLooksAtIndexes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		postgres := strings.HasPrefix(url, "postgres")
		healthy(t, url, db)
		mustExec(t, db, "DROP INDEX endstate_outbox_dedup")
		report := examine(t, url, []string{"unique-index"})
		mustExec(t, db, report.Findings[0].Fix)
		examine(t, url, []string{})

		// The incident's table: nothing, then the trap, then what fixes it.
		incident(t, db)
		foreign := []string{"--table", "event_outbox"}
		report = examine(t, url, []string{"unique-index", "relay-index"}, foreign...)
		mustExec(t, db, report.Findings[1].Fix, "DELETE FROM event_outbox")
		mustExec(t, db, `CREATE UNIQUE INDEX idx_outbox_unique_unpublished ON event_outbox (aggregate_id, event_type) WHERE published_at IS NULL`)
		report = examine(t, url, []string{"unique-index"}, foreign...)
		require.Contains(t, report.Findings[0].What, "covers unpublished rows only")
		require.Contains(t, report.Findings[0].Why, "trap")
		for statement := range strings.SplitSeq(report.Findings[0].Fix, "\n") {
			mustExec(t, db, statement)
		}
		examine(t, url, []string{}, foreign...)
		if !postgres {
			return
		}
		// A concurrent creation that met duplicates leaves an invalid index.
		mustExec(t, db, "DROP INDEX event_outbox_dedup", "INSERT INTO event_outbox (aggregate_id, event_type) VALUES ('b', 'x'), ('b', 'x')")
		_, err := db.Exec("CREATE UNIQUE INDEX CONCURRENTLY event_outbox_dedup ON event_outbox (aggregate_id, event_type)")
		require.Error(t, err)
		report = examine(t, url, []string{"unique-index"}, foreign...)
		require.Contains(t, report.Findings[0].What, "is invalid")
		mustExec(t, db, "DELETE FROM event_outbox")
		drop, create, _ := strings.Cut(report.Findings[0].Fix, "\n")
		mustExec(t, db, drop, create)
		examine(t, url, []string{}, foreign...)
	})
}

func TestDoctorLooksAtTheRelay(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		healthy(t, url, db)
		mustExec(t, db, "INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id, last_error, dead_at) SELECT 'default', partition, seq, id, aggregate_type, aggregate_id, 'too large', created_at FROM endstate_outbox",
			"UPDATE endstate_outbox_cursors SET owner = NULL", "DELETE FROM endstate_outbox_relays")
		report := examine(t, url, []string{"dead-events", "partitions"})
		require.Contains(t, report.Findings[0].What, "3 events")
		require.Contains(t, report.Findings[1].What, `8 of 8 partitions of subscription "default" have no owner, and 0 relays run`)
		// What to do is said in commands, which do it.
		require.Contains(t, report.Findings[1].Fix, "endstate relay --to URL")
		commands := 0
		for line := range strings.Lines(report.Findings[0].Fix) {
			if command, is := strings.CutPrefix(strings.TrimSpace(line), "endstate "); is {
				r := cli(t, url, strings.Fields(command)...)
				require.Zero(t, r.status, "%s: %s", command, r.stderr)
				commands++
			}
		}
		require.Equal(t, 3, commands, "the last finds nothing more to do")
		examine(t, url, []string{"partitions"})
	})
}

// The statement that the doctor prints for a sequence that was set back is run as it stands.
func TestDoctorRaisesASequence(t *testing.T) {
	each(t, func(t *testing.T, url string, db *sql.DB) {
		healthy(t, url, db)
		mustExec(t, db, "UPDATE endstate_outbox_cursors SET position = 1000")
		fix := examine(t, url, []string{"log"}).Findings[0].Fix
		statement, _, _ := strings.Cut(fix, "\n")
		mustExec(t, db, statement)
		examine(t, url, []string{})
	})
}

func TestShellQuoted(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"plain", "it's", "$(rm) `x` \\ \"", ""} {
		out, err := exec.Command("sh", "-c", "printf %s "+shellQuoted(text)).Output()
		require.NoError(t, err)
		require.Equal(t, text, string(out))
	}
}

// Ledger, outbox and status table, each against the others.
func TestDoctorComparesRows(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		healthy(t, url, db)
		all := append([]string{"--skip", "protection"}, ofBatches...)
		examine(t, url, []string{}, all...)
		sick := func(found []string, example string, statements ...string) {
			t.Helper()
			mustExec(t, db, statements...)
			for _, more := range [][]string{nil, {"--full"}} {
				report := examine(t, url, found, append(more, all...)...)
				for _, f := range report.Findings {
					require.Contains(t, f.What, example)
				}
			}
		}
		// An entry without an event; a terminal row without both.
		sick([]string{"terminal-without-event", "ledger-without-status"}, "7", `INSERT INTO endstate_ledger (aggregate, "key", state, "trigger", token, at) VALUES ('batch', 'i:7', 'COMPLETE', 'x', '6ba7b810-9dad-11d1-80b4-00c04fd430c8', '2100-01-01T00:00:00.000Z')`)
		sick([]string{"terminal-without-event", "terminal-without-event"}, "7", "INSERT INTO batches VALUES (7, 'COMPLETE')")
		sick([]string{}, "", putEvent(db, "batch", "i:7", "7"))
		sick([]string{"terminal-without-event", "status-without-ledger"}, "8", "INSERT INTO batches VALUES (8, 'ERROR')")
		// The statement lists the rows that were counted: not those that are open, nor are events of another type theirs.
		mustExec(t, db, putEvent(db, "crate", "i:8", "8"))
		query, _, _ := strings.Cut(examine(t, url, []string{"terminal-without-event", "status-without-ledger"}, all...).Findings[0].Fix, ";")
		var listed string
		require.NoError(t, db.QueryRow(strings.Replace(query, "s.*", "count(*) || ' ' || min(s.id)", 1)).Scan(&listed))
		require.Equal(t, "1 8", listed)
		mustExec(t, db, "DELETE FROM endstate_outbox WHERE aggregate_type = 'crate'")
		sick([]string{}, "", "DELETE FROM batches WHERE id = 8")
		// An event without an entry, and with an open row. A bare Put's event doesn't count.
		sick([]string{}, "", strings.Replace(putEvent(db, "batch", "i:2", "2"), "batch/i:2#completed", "my own key", 1))
		sick([]string{"event-without-terminal", "event-without-terminal"}, "2", putEvent(db, "batch", "i:2", "2"))
		sick([]string{}, "", "DELETE FROM endstate_outbox WHERE aggregate_id = '2'")
		// A row that was reopened, and one that was overwritten.
		sick([]string{"event-without-terminal", "ledger-without-status"}, "7", "UPDATE batches SET status = 'PENDING' WHERE id = 7")
		sick([]string{"ledger-without-status"}, "ERROR in its row", "UPDATE batches SET status = 'ERROR' WHERE id = 7")
		if strings.HasPrefix(url, "postgres") {
			report := examine(t, url, []string{"ledger-without-status"}, all...)
			mustExec(t, db, report.Findings[0].Fix)
			examine(t, url, []string{}, all...)
		}
	})
}

func TestDoctorLooksForProtection(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		healthy(t, url, db)
		report := examine(t, url, []string{"protection"}, ofBatches...)
		require.NotContains(t, report.Findings[0].Fix, ";;")
		mustExec(t, db, report.Findings[0].Fix)
		examine(t, url, []string{}, ofBatches...)
		_, err := db.Exec("UPDATE batches SET status = 'PENDING' WHERE id = 1")
		require.ErrorContains(t, err, "holds a terminal state")
	})
}

func TestDoctorLooksAtAutovacuum(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	db := dbtest.SQLOn(t, url)
	healthy(t, url, db)
	mustExec(t, db, "ALTER TABLE endstate_outbox SET (autovacuum_enabled = off)")
	report := examine(t, url, []string{"autovacuum"})
	mustExec(t, db, report.Findings[0].Fix)
	examine(t, url, []string{})
	incident(t, db)
	mustExec(t, db, "CREATE UNIQUE INDEX ON event_outbox (aggregate_id, event_type, created_at)", "CREATE INDEX ON event_outbox (published_at)",
		"UPDATE pg_class SET reltuples = 200000 WHERE relname = 'event_outbox'")
	report = examine(t, url, []string{"autovacuum"}, "--table", "event_outbox", "--skip", "unique-index")
	require.Contains(t, report.Findings[0].Fix, "autovacuum_vacuum_scale_factor")
	mustExec(t, db, report.Findings[0].Fix)
	examine(t, url, []string{}, "--table", "event_outbox", "--skip", "unique-index")
}

// Through a PgBouncer in transaction mode no notification arrives.
func TestDoctorFindsPgBouncer(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	healthy(t, url, dbtest.SQLOn(t, url))
	bouncer := dbtest.StartPgBouncer(t, url, "default_pool_size=2", "ignore_startup_parameters=extra_float_digits")
	through := bouncer.URL()
	separator := "?"
	if strings.Contains(through, "?") {
		separator = "&"
	}
	through += separator + "default_query_exec_mode=exec"
	report := examine(t, url, []string{"listen"}, "--listen-url", through)
	require.Contains(t, report.Findings[0].Why, "PgBouncer")
	report = examine(t, through, []string{"listen"})
	require.Contains(t, report.Findings[0].Fix, "ListenURL")
}

func TestDoctorComparesClocks(t *testing.T) {
	t.Parallel()
	require.Empty(t, clockFinding(900*time.Millisecond, time.Millisecond))
	require.Empty(t, clockFinding(-2*time.Second, 3*time.Second), "the trip took that long")
	require.Contains(t, clockFinding(-24*time.Hour, 0)[0].What, "24h0m0s behind")
	require.Contains(t, clockFinding(2*time.Second, 0)[0].What, "2s ahead of")
}

func TestDoctorCannotRun(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		healthy(t, url, db)
		for said, args := range map[string][]string{
			`table "nowhere" does not exist`:            {"--table", "nowhere"},
			`table "batches" has no column "event_typ"`: {"--table", "batches", "--aggregate", "id", "--type", "event_typ", "--published", ""},
			`--skip "all" is none of the checks`:        {"--skip", "all"},
			`table "batch" does not exist`:              {"--status-table", "batch", "--skip", "terminal-without-event", "--skip", "event-without-terminal", "--skip", "status-without-ledger", "--skip", "ledger-without-status"},
			`Status.Terminal`:                           {"--status-table", "batches", "--terminal", ""},
			`the ledger has 3 aggregate types`:          {"--status-table", "batches"},
		} {
			r := cli(t, url, append([]string{"doctor"}, args...)...)
			require.Equal(t, 2, r.status, "%+v", r)
			require.Empty(t, r.stdout)
			require.Contains(t, r.stderr, said)
		}
	})
}

// A doctor who is told to stop says so.
func TestDoctorIsInterrupted(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	db := dbtest.SQLOn(t, url)
	healthy(t, url, db)
	tx, err := db.Begin()
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback()) }()
	_, err = tx.Exec("LOCK TABLE endstate_outbox")
	require.NoError(t, err)
	run := start(t, url, "doctor")
	require.Eventually(t, func() bool {
		var waits bool
		err := db.QueryRow("SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'endstate' AND wait_event_type = 'Lock'").Scan(&waits)
		return err == nil && waits
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, run.Process.Signal(os.Interrupt))
	r := run.wait(t)
	require.Equal(t, 2, r.status)
	require.Empty(t, r.stdout)
	require.Contains(t, r.stderr, "interrupt")
}
