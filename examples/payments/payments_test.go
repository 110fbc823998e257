package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/internal/dbtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func runJSON(t *testing.T, args ...string) report {
	t.Helper()
	var stdout, stderr bytes.Buffer
	require.Zero(t, run(t.Context(), append(args, "-json"), &stdout, &stderr), stderr.String())
	require.Empty(t, stderr.String())
	var r report
	decoder := json.NewDecoder(&stdout)
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&r))
	require.False(t, decoder.More(), "one object on stdout")
	return r
}

func requireSettledOnce(t *testing.T, r report, n int) {
	t.Helper()
	require.Empty(t, r.wrong())
	require.Len(t, r.Payments, n)
	won, lost := 0, 0
	for _, trigger := range triggers() {
		won, lost = won+r.Wins[trigger], lost+r.Losses[trigger]
	}
	require.Equal(t, n, won)
	require.Equal(t, 6*n, r.Calls)
	require.Equal(t, r.Calls, won+lost+r.Pending)
	for _, p := range r.Payments {
		switch {
		case isLate(p.ID):
			require.Equal(t, "EXPIRED", p.Status)
		case p.Status != "EXPIRED":
			require.Equal(t, string(result(p.ID)), p.Status)
			require.NotEqual(t, "timeout", p.By)
		default:
			require.Zero(t, p.ID%3, "its time was not over")
		}
		if p.Status == "EXPIRED" {
			require.Equal(t, "timeout", p.By)
			if result(p.ID) == captured {
				require.Equal(t, 1, p.Refunds, "the webhook came twice, and the money goes back once")
			}
		}
	}
}

func TestSQLite(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	r := runJSON(t)
	require.Equal(t, "sqlite", r.Database)
	requireSettledOnce(t, r, 12)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestPostgres(t *testing.T) {
	url := dbtest.Postgres(t)
	r := runJSON(t, "-db", url, "-payments", "60", "-seed", "2")
	require.Equal(t, "postgres", r.Database)
	requireSettledOnce(t, r, 60)
	var schemas int
	require.NoError(t, dbtest.SQLOn(t, url).QueryRow(`SELECT count(*) FROM pg_namespace WHERE nspname = 'payments_example'`).Scan(&schemas))
	require.Zero(t, schemas)
}

func TestWrongIsSaid(t *testing.T) {
	for want, p := range map[string]payment{
		"payment 1 was settled 2 times":                      {1, "CAPTURED", "webhook", 2, 1, 0},
		"payment 1, which is CAPTURED, was booked 2 times":   {1, "CAPTURED", "webhook", 1, 2, 0},
		"payment 1, which is DECLINED, was booked 1 times":   {1, "DECLINED", "webhook", 1, 1, 0},
		"payment 1, which is CAPTURED, was refunded 1 times": {1, "CAPTURED", "webhook", 1, 1, 1},
	} {
		require.Equal(t, []string{want}, report{Payments: []payment{p}}.wrong())
	}
}

func TestText(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"-payments", "30"}, &stdout, &stderr), stderr.String())
	lines := strings.Split(stdout.String(), "\n")
	for _, line := range lines[2:22] {
		require.Len(t, line, len(lines[2]), line)
	}
	require.Contains(t, stdout.String(), "…\n")
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"-help"}, &stdout, &stderr))
	require.Contains(t, stderr.String(), "-payments")
	require.Empty(t, stdout.String())
}

func TestBadUsage(t *testing.T) {
	for _, args := range [][]string{
		{"-payments", "0"}, {"-payments", "10001"}, {"-nonsense"}, {"-seed", "x"}, {"postgres://u:secret@localhost/x"},
		{"-db", "mysql://root:secret@localhost/x"}, {"-db", "postgres://u:secret%zz@localhost/x"},
		{"-db", "postgres://u:secret@127.0.0.1:1/x?connect_timeout=2"},
	} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, 2, run(t.Context(), args, &stdout, &stderr), args)
		require.Empty(t, stdout.String())
		require.NotEmpty(t, stderr.String())
		require.NotContains(t, stderr.String(), "secret")
		require.NotContains(t, stderr.String(), "Usage", "the message isn't buried")
	}
}
