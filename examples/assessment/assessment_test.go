package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// TestMain lets the test binary be the processes that the program starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Getenv(dbEnv+"_CHILDREN") == "1" {
		for _, arg := range os.Args {
			if arg == "-child" {
				os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr, nil))
			}
		}
	}
	os.Exit(m.Run())
}

func runJSON(t *testing.T, args ...string) (int, report) {
	t.Helper()
	t.Setenv(dbEnv+"_CHILDREN", "1")
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), append(args, "-json"), &stdout, &stderr, nil)
	require.NotEqual(t, 2, status, stderr.String())
	var r report
	decoder := json.NewDecoder(&stdout)
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&r))
	require.False(t, decoder.More(), "one object on stdout")
	return status, r
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
	status, r := runJSON(t, "-processes", "4", "-batches", "7", "-seed", "3")
	requireTheIncident(t, status, r, 7)
}

func TestPostgresFourProcessesKept(t *testing.T) {
	url := dbtest.Postgres(t)
	status, r := runJSON(t, "-db", url, "-processes", "4", "-keep")
	require.Equal(t, "postgres", r.Database)
	requireTheIncident(t, status, r, 25)

	db := dbtest.SQLOn(t, url)
	count := func(query string) (n int) {
		require.NoError(t, db.QueryRow(query).Scan(&n))
		return n
	}
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

func (alwaysOpen) Claim(context.Context, guard.Tx, guard.Ref) (guard.Record, error) {
	return guard.Record{}, nil
}

func (alwaysOpen) Settle(ctx context.Context, tx guard.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error) {
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
		{"-batches", "0"}, {"-comparisons", "-1"}, {"-workers", "0"}, {"-processes", "1000"}, {"-nonsense"}, {"extra"},
		{"-db", "mysql://root:secret@localhost/x"}, {"-db", "postgres://u:secret@127.0.0.1:1/x?connect_timeout=2"},
	} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, 2, run(t.Context(), args, &stdout, &stderr, nil), args)
		require.Empty(t, stdout.String())
		require.NotEmpty(t, stderr.String())
		require.NotContains(t, stderr.String(), "secret")
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
