package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// childEnv says what the test binary does when the program starts it as one of its processes: "work", or the number of the
// process that fails.
const childEnv = "ASSESSMENT_TEST_CHILD"

func TestMain(m *testing.M) {
	if child := os.Getenv(childEnv); child != "" && slices.Contains(os.Args, "-child") {
		if os.Args[len(os.Args)-1] == child {
			os.Exit(3)
		}
		os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr, nil))
	}
	goleak.VerifyTestMain(m)
}

func runJSON(t *testing.T, args ...string) (int, report) {
	t.Helper()
	t.Setenv(childEnv, "work")
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), append(args, "-json"), &stdout, &stderr, nil)
	require.NotEqual(t, 2, status, stderr.String())
	return status, decode(t, &stdout)
}

func decode(t *testing.T, stdout io.Reader) report {
	t.Helper()
	var r report
	decoder := json.NewDecoder(stdout)
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&r))
	require.False(t, decoder.More(), "one object on stdout")
	return r
}

// kept runs on SQLite and opens the guarded run's database afterwards.
func kept(t *testing.T, args ...string) (report, *store) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	status, r := runJSON(t, append(args, "-keep")...)
	require.Zero(t, status)
	files, err := filepath.Glob(filepath.Join(dir, "*", "assessment_endstate.db"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	s, err := openStore(options{guard: withEndstate, dir: filepath.Dir(files[0]), processes: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return r, s
}

func count(t *testing.T, db *sql.DB, query string) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow(query).Scan(&n))
	return n
}

func requireTheIncident(t *testing.T, status int, r report, batches int) {
	t.Helper()
	require.Zero(t, status)
	require.Len(t, r.Runs, 2)
	none, guarded := r.Runs[0], r.Runs[1]
	require.Equal(t, withNone, none.Guard)
	require.Equal(t, batches, none.Batches)
	require.Positive(t, none.Duplicates)
	require.Positive(t, none.Premature)
	require.GreaterOrEqual(t, none.WorstBatch, 83, "the loop ran away with one batch")
	require.Equal(t, none.Events, none.Finalizations)
	require.Equal(t, none.Events-batches, none.Duplicates)

	require.Equal(t, withEndstate, guarded.Guard)
	require.Equal(t, batches, guarded.Events)
	require.Equal(t, batches, guarded.Finalizations)
	require.Equal(t, 1, guarded.WorstBatch)
	require.Zero(t, guarded.Duplicates)
	require.Zero(t, guarded.Percentage)
	require.Zero(t, guarded.Premature)
	wins, losses := 0, 0
	for _, trigger := range triggers() {
		wins += guarded.Wins[trigger]
		losses += guarded.Losses[trigger]
	}
	require.Equal(t, batches, wins)
	require.Equal(t, 83, guarded.Wins[runaway]+guarded.Losses[runaway])
	require.LessOrEqual(t, wins+losses, guarded.TriggerCalls, "the rest were not ready")
}

func TestSQLite(t *testing.T) {
	status, r := runJSON(t)
	require.Equal(t, "sqlite", r.Database)
	requireTheIncident(t, status, r, 25)
}

func TestSQLiteFourProcesses(t *testing.T) {
	r, s := kept(t, "-processes", "4", "-batches", "20", "-seed", "3")
	requireTheIncident(t, 0, r, 20)
	guarded := r.Runs[1]
	require.Equal(t, 4, count(t, s.DB, `SELECT count(DISTINCT pid) FROM trigger_calls`))
	require.Zero(t, count(t, s.DB, `SELECT count(*) FROM trigger_calls WHERE pid = `+fmt.Sprint(os.Getpid())))
	require.Equal(t, guarded.TriggerCalls, count(t, s.DB, `SELECT count(*) FROM trigger_calls`))
	require.Equal(t, 20, count(t, s.DB, `SELECT count(*) FROM endstate_outbox WHERE type = 'assessment.completed'`))
	require.Equal(t, 60, count(t, s.DB, `SELECT count(*) FROM endstate_outbox`))
	require.Equal(t, 20, count(t, s.DB, `SELECT count(*) FROM endstate_ledger l JOIN batches b ON l.key = 't:' || b.id AND l.state = b.status`))
	for _, trigger := range triggers() {
		require.Equal(t, guarded.Wins[trigger], count(t, s.DB, `SELECT count(*) FROM endstate_ledger WHERE "trigger" = '`+trigger+`'`),
			"%s was told that it won as often as the ledger says", trigger)
	}
}

// With a lock each batch is scored once, without one as often as triggers overlap; one event goes out in both cases.
func TestScoringsWithEachLock(t *testing.T) {
	for _, args := range [][]string{
		{"-lock", "none", "-scoring", "20ms"},
		{"-lock", "local", "-scoring", "20ms"},
		{"-redis", dbtest.RedisURL(t), "-processes", "4"},
		{"-db", dbtest.Postgres(t), "-lock", "postgres", "-processes", "4"},
	} {
		status, r := runJSON(t, append(args, "-batches", "10")...)
		requireTheIncident(t, status, r, 10)
		require.Equal(t, r.Runs[0].Finalizations, r.Runs[0].Scorings, "unguarded, every finalization scores")
		require.Equal(t, "none", r.Runs[0].Lock)
		if args[1] == "none" {
			require.Greater(t, r.Runs[1].Scorings, 10, args)
		} else {
			require.NotEqual(t, "none", r.Runs[1].Lock)
			require.Equal(t, 10, r.Runs[1].Scorings, args)
		}
	}
}

func TestTooEarlyIsTurnedAway(t *testing.T) {
	// One worker: the fifth callback of a batch finds five of ten done.
	r, s := kept(t, "-workers", "1")
	require.Equal(t, 20, r.Runs[0].Premature)
	require.Equal(t, 20, count(t, s.DB, `SELECT count(*) FROM trigger_calls WHERE caller = 'periodic' AND result = 'not ready'`))
	require.Equal(t, r.Runs[1].TriggerCalls, count(t, s.DB, `SELECT count(*) FROM trigger_calls`))
	require.Zero(t, count(t, s.DB, `SELECT count(*) FROM finalizations JOIN batches ON id = batch_id WHERE premature = 1`))
	// Batches whose answers are lost are completed once the recovery has given them up, and not before.
	require.Equal(t, 2, count(t, s.DB, `SELECT count(*) FROM finalizations JOIN batches ON id = batch_id
		WHERE done = 6 AND failed = 4 AND status = 'COMPLETE_STABLE' AND id IN ('batch-007', 'batch-017')`))
}

func TestFiguresShowEveryFault(t *testing.T) {
	_, s := kept(t, "-batches", "5")
	wrong := func(statement string) []string {
		_, err := s.Exec(statement)
		require.NoError(t, err)
		f, err := s.figures(t.Context(), options{guard: withEndstate})
		require.NoError(t, err)
		return report{Runs: []figures{f}}.wrong()
	}
	require.Empty(t, wrong(`SELECT 1`))
	require.Equal(t, []string{"1 batches without their event"}, wrong(`DELETE FROM endstate_outbox WHERE aggregate_id = 'batch-002'`))
	require.Len(t, wrong(`UPDATE finalizations SET premature = 1 WHERE batch_id = 'batch-003'`), 2)
	wrong(`DROP INDEX endstate_outbox_dedup`)
	require.Len(t, wrong(`UPDATE endstate_outbox SET aggregate_id = 'batch-004' WHERE aggregate_id = 'batch-005'`), 3)
}

func TestTheProgramItself(t *testing.T) {
	program := filepath.Join(t.TempDir(), "assessment")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), program, "-processes", "4", "-json")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), stderr.String())
	requireTheIncident(t, 0, decode(t, &stdout), 25)
	require.Empty(t, stderr.String())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestAProcessThatFailsStopsTheOthers(t *testing.T) {
	t.Setenv(childEnv, "2")
	var stdout, stderr bytes.Buffer
	require.Equal(t, 2, run(t.Context(), []string{"-processes", "3", "-json"}, &stdout, &stderr, nil))
	require.Empty(t, stdout.String())
	require.Contains(t, stderr.String(), "process 2: exit status 3")
	require.NotContains(t, stderr.String(), "has a process died", "nobody waited for it in vain")
}

func TestPostgresFourProcessesKept(t *testing.T) {
	url := dbtest.Postgres(t)
	status, r := runJSON(t, "-db", url, "-processes", "4", "-keep")
	require.Equal(t, "postgres", r.Database)
	requireTheIncident(t, status, r, 25)

	db := dbtest.SQLOn(t, url)
	count := func(query string) int { return count(t, db, query) }
	require.Equal(t, 4, count(`SELECT count(DISTINCT pid) FROM assessment_endstate.trigger_calls`))
	require.Equal(t, r.Runs[0].Events, count(`SELECT count(*) FROM assessment_none.event_outbox WHERE event_type = 'assessment.completed'`))
	require.Equal(t, 25, count(`SELECT count(*) FROM assessment_endstate.endstate_ledger l JOIN assessment_endstate.batches b
		ON l.key = 't:' || b.id AND l.aggregate = 'batch' AND l.state = b.status`))
	require.Equal(t, 25, count(`SELECT count(*) FROM assessment_endstate.endstate_outbox WHERE type = 'assessment.completed'`))
	require.Equal(t, 75, count(`SELECT count(*) FROM assessment_endstate.endstate_outbox`))

	// A second run makes everything anew, and without -keep leaves nothing.
	status, r = runJSON(t, "-db", url, "-batches", "3")
	requireTheIncident(t, status, r, 3)
	require.Zero(t, count(`SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'assessment%'`))
}

// alwaysOpen is a guard that guards nothing.
type alwaysOpen struct{}

func (alwaysOpen) Claim(context.Context, endstate.Tx, guard.Ref) (guard.Record, error) {
	return guard.Record{}, nil
}

func (alwaysOpen) Settle(ctx context.Context, tx endstate.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error) {
	// Nor does the outbox's dedup help: the service has lost it.
	_, err := tx.Exec(ctx, `DROP INDEX IF EXISTS endstate_outbox_dedup`)
	return guard.Record{Final: true, State: to.State}, err
}

func TestABrokenGuardIsNoticed(t *testing.T) {
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), []string{"-batches", "3", "-workers", "1"}, &stdout, &stderr, func(guard.Guard) guard.Guard { return alwaysOpen{} })
	require.Equal(t, 1, status)
	require.Contains(t, stderr.String(), "duplicates")
}

func TestBadUsage(t *testing.T) {
	for _, args := range [][]string{
		{"-batches", "0"}, {"-comparisons", "-1"}, {"-workers", "0"}, {"-processes", "1000"}, {"-nonsense"}, {"-seed", "x"}, {"extra"},
		{"postgres://u:secret@localhost/x"}, {"-db", "postgres://u:secret%zz@localhost/x"}, {"-db", "postgres://u:secret@localhost/x?sslmode=no"},
		{"-lock", "zookeeper"}, {"-lock", "redis"}, {"-lock", "postgres"}, {"-lock", "local", "-redis", "redis://:secret@localhost/0"},
		{"-redis", "redis://:secret%zz@localhost/0"}, {"-scoring", "-1s"}, {"-scoring", "1h"},
		{"-db", "postgres://u:secret@localhost/x", "-lock", "postgres", "-processes", "17"},
		{"-db", "mysql://root:secret@localhost/x"}, {"-db", "postgres://u:secret@127.0.0.1:1/x?connect_timeout=2"},
	} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, 2, run(t.Context(), args, &stdout, &stderr, nil), args)
		require.Empty(t, stdout.String())
		require.NotEmpty(t, stderr.String())
		require.NotContains(t, stderr.String(), "secret")
		require.NotContains(t, stderr.String(), "Usage", "the message isn't buried")
	}
}

func TestTableLinesUp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"-batches", "2"}, &stdout, &stderr, nil), stderr.String())
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	for _, line := range lines[2:] {
		require.Len(t, line, len(lines[2]), line)
	}
}
