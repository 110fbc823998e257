package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

func logFile(t testing.TB, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "app.log")
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600))
	return path
}

func auditLogs(t testing.TB, status int, args ...string) logReport {
	t.Helper()
	r := cli(t, "", append([]string{"audit", "logs", "--json"}, args...)...)
	require.Equal(t, status, r.status, "%+v", r)
	require.Empty(t, r.stderr)
	return decode[logReport](t, r)
}

// Each logger's way to write the same two completions.
func TestLogsOfEachLogger(t *testing.T) {
	t.Parallel()
	for logger, format := range map[string]string{
		"slog":            `{"time":%q,"level":"INFO","msg":"finalized","aggregate":"batch","key":"42","trigger":%q,"state":"COMPLETE"}`,
		"zap":             `{"level":"info","ts":%q,"caller":"x.go:1","msg":"finalized","batch_id":42,"trigger":%q}`,
		"zerolog":         `{"level":"info","aggregate_id":"42","trigger":%[2]q,"time":%[1]q,"message":"finalized"}`,
		"structlog":       `{"aggregate_id": "42", "trigger": %[2]q, "event": "finalized", "level": "info", "timestamp": %[1]q}`,
		"logrus":          `{"key":"42","trigger":%[2]q,"level":"info","msg":"finalized","time":%[1]q}`,
		"another's event": `{"event":{"kind":"event"},"message":"finalized","@timestamp":%q,"key":"42","trigger":%q}`,
	} {
		t.Run(logger, func(t *testing.T) {
			t.Parallel()
			path := logFile(t, fmt.Sprintf(format, "2025-11-15T12:00:00+01:00", "threshold"), `{"msg":"request served"}`, fmt.Sprintf(format, "2025-11-15T11:00:00.5Z", "monitor"))
			r := auditLogs(t, 1, path)
			require.EqualValues(t, 3, r.Lines)
			require.Zero(t, r.BadLines)
			require.EqualValues(t, 1, r.Aggregates)
			require.EqualValues(t, 2, r.Finalizations)
			require.EqualValues(t, 2, r.Starts)
			require.EqualValues(t, 1, r.Repeated)
			require.Equal(t, "42", r.Worst[0].ID)
			require.Equal(t, []string{"threshold", "monitor"}, r.Worst[0].Triggers)
			require.Equal(t, "2025-11-15T11:00:00Z", r.Worst[0].First.Format("2006-01-02T15:04:05Z07:00"))
			require.Equal(t, 500e6, float64(r.Worst[0].Last.Sub(*r.Worst[0].First)))
		})
	}
}

// The library's own logger is what the defaults are for.
func TestOwnLogs(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	fin, err := finalize.NewSQL(dbtest.SQLite(t), &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{},
		Logger: slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	require.NoError(t, err)
	require.NoError(t, fin.Migrate(t.Context()))
	for _, trigger := range []string{"periodic", "threshold", "monitor"} {
		_, err := fin.Do(t.Context(), guard.Int(7), finalize.Trigger(trigger), func(context.Context, *sql.Tx) (finalize.Outcome, error) {
			if trigger == "periodic" {
				return finalize.Outcome{}, finalize.ErrNotReady
			}
			return finalize.Outcome{State: "COMPLETE"}, nil
		})
		if trigger != "periodic" {
			require.NoError(t, err)
		}
	}
	r := auditLogs(t, 1, logFile(t, out.String()))
	require.EqualValues(t, 2, r.Finalizations)
	require.EqualValues(t, 3, r.Starts)
	require.Equal(t, []string{"threshold", "monitor"}, r.Worst[0].Triggers)
	require.Equal(t, "batch", r.Worst[0].Type)
	require.Equal(t, "7", r.Worst[0].ID)
	require.Zero(t, auditLogs(t, 0, "--message", "^finalized$", logFile(t, out.String())).Starts)
}

func TestLogsNamedByFlags(t *testing.T) {
	t.Parallel()
	path := logFile(t,
		`{"m":"Dual event publishing completed: <b> \"x\"","ctx":{"batch.id":"x","batch":{"id":"b-1"}},"who":"sweep","at":1731668383.25}`,
		`{"m":"Dual event publishing completed: <b> \"x\"","ctx":{"batch":{"id":"b-1"}},"who":"loop","at":1731668383500}`,
		`{"m":"finalize_scoring called","ctx":{"batch":{"id":"b-1"}}}`,
		`{"m":"finalize_scoring called","ctx":{"batch":{"id":"b-2"}}}`)
	for _, message := range []string{"^Dual event publishing completed", `(?i)dual EVENT`, `<b> "x"$`, `completed|nothing`, `comp.*x"`, `(x|y)"`} {
		r := auditLogs(t, 1, "--message", message, "--message-key", "m", "--key", "ctx.batch.id", "--trigger-key", "who", "--time-key", "at", "--start", "^finalize_scoring", path)
		require.EqualValues(t, 2, r.Finalizations, message)
		require.EqualValues(t, 2, r.Aggregates, message)
		require.EqualValues(t, 2, r.Starts)
		require.EqualValues(t, 1, r.Worst[0].Starts)
		require.Equal(t, []string{"sweep", "loop"}, r.Worst[0].Triggers)
		require.EqualValues(t, 250, r.Worst[0].Last.Sub(*r.Worst[0].First).Milliseconds())
	}
}

func TestTextLogs(t *testing.T) {
	t.Parallel()
	path := logFile(t,
		"2025-11-15 18:59:43,123 INFO batch b-1: completed by threshold",
		"something else\r",
		"2025-11-15 18:59:44,123 INFO batch b-1: completed by monitor",
		"2025-11-15 18:59:44,500 INFO batch b-2: completed by monitor",
		"this completed without a batch")
	r := auditLogs(t, 1, "--message", "completed", "--pattern", `^(?P<time>\S+ \S+) .*batch (?P<key>[^:]+): .* by (?P<trigger>\w+)`, path)
	require.EqualValues(t, 5, r.Lines)
	require.EqualValues(t, 3, r.Finalizations)
	require.EqualValues(t, 2, r.Aggregates)
	require.Equal(t, []string{"threshold", "monitor"}, r.Worst[0].Triggers)
	require.EqualValues(t, 1000, r.Worst[0].Last.Sub(*r.Worst[0].First).Milliseconds())
	require.EqualValues(t, 1, r.BadLines)
	require.Equal(t, badLine{path, 5, "--pattern finds no key in it", "this completed without a batch"}, r.Bad[0])
}

// F38: bad lines are counted, the first ones shown, and nothing else is lost by them.
func TestBadLines(t *testing.T) {
	t.Parallel()
	good := `{"msg":"finalized","key":"1"}`
	path := logFile(t, good, `{"msg":"finalized","key":"1"`, "panic: \x1b[31mno\x00", "", `["finalized"]`, `{"msg":"finalized"}`, `{bad}`,
		`{"msg":"finalized","key":"`+strings.Repeat("x", 2<<20)+`"}`, `{"msg":"request","broken":tru}`, good)
	r := auditLogs(t, 1, path)
	require.EqualValues(t, 10, r.Lines)
	require.EqualValues(t, 7, r.BadLines)
	require.EqualValues(t, 2, r.Finalizations)
	require.Len(t, r.Bad, 5)
	require.Equal(t, badLine{path, 3, "neither a JSON object nor logfmt (for other text there is --pattern)", `panic: \x1b[31mno\x00`}, r.Bad[1])
	require.Contains(t, r.Bad[3].Why, "--key")
	out := cli(t, "", "audit", "logs", path)
	require.Contains(t, out.stdout, path+":2: neither a JSON object nor logfmt")
	require.Contains(t, out.stdout, "lines that can't be read   7")
}

// Several files, standard input, gzip.
func TestLogSources(t *testing.T) {
	t.Parallel()
	line := `{"msg":"finalized","key":"1"}` + "\n"
	var zipped bytes.Buffer
	for range 2 { // as rotated files that were put together
		w := gzip.NewWriter(&zipped)
		_, err := w.Write([]byte(line))
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	path := filepath.Join(t.TempDir(), "app.log.gz")
	require.NoError(t, os.WriteFile(path, zipped.Bytes(), 0o600))
	cmd := exec.CommandContext(t.Context(), binary, "audit", "logs", path, "-", path, "--json")
	cmd.Stdin = strings.NewReader(line)
	out, err := cmd.Output()
	require.Error(t, err)
	require.Contains(t, string(out), `"lines":5,"bad_lines":0,"unique_aggregates":1,"finalizations":5`)

	require.NoError(t, os.WriteFile(path, zipped.Bytes()[:zipped.Len()-10], 0o600))
	r := cli(t, "", "audit", "logs", path)
	require.Equal(t, 2, r.status)
	require.Contains(t, r.stdout, "finalizations             ", "what was read before is shown")
	require.Contains(t, r.stderr, path+": unexpected EOF")
	r = cli(t, "", "audit", "logs", path+".2")
	require.Equal(t, 2, r.status)
	require.Contains(t, r.stderr, path+".2: no such file")
	for _, args := range [][]string{nil, {"--message", "(", path}, {"--start", "(", path}, {"--pattern", "(", path}, {"--pattern", "x", path}} {
		require.Equal(t, 2, cli(t, "", append([]string{"audit", "logs"}, args...)...).status, args)
	}
}

// What the logs repeat, held against the outbox.
func TestLogsAgainstTheOutbox(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		mustExec(t, db, "CREATE TABLE event_outbox (kind text, aggregate_id text, event_type text)",
			"INSERT INTO event_outbox VALUES ('batch', 'guarded', 'x'), ('batch', 'guarded', 'y'), ('batch', 'both', 'x'), ('batch', 'both', 'x'), ('batch', 'both', 'y'), ('batch', 'both', 'y'), ('batch', 'unseen', 'x'), ('batch', 'unseen', 'x')")
		var lines []string
		for _, id := range []string{"guarded", "guarded", "both", "both", "both", "unseen", "other"} {
			lines = append(lines, fmt.Sprintf(`{"msg":"finalized","aggregate":"batch","key":%q}`, id))
		}
		path := logFile(t, lines...)
		for _, args := range [][]string{nil, {"--aggregate", "kind", "--aggregate", "aggregate_id"}} {
			r := auditLogs(t, 1, append(args, "--db", url, "--table", "event_outbox", path)...)
			require.EqualValues(t, 1, r.Outbox.Guarded)
			require.EqualValues(t, 1, r.Outbox.Both)
			require.EqualValues(t, 1, r.Outbox.Unseen)
			require.Len(t, r.Outbox.Examples, 2)
		}
		out := cli(t, "", "audit", "logs", path, "--db", url, "--table", "event_outbox")
		require.Contains(t, out.stdout, "the guard worked")
		// The environment's database isn't looked at unless it is asked for.
		out = cli(t, url, "audit", "logs", path, "--json")
		require.NotContains(t, out.stdout, "outbox")
		out = cli(t, "", "audit", "logs", path, "--db", url, "--table", "nowhere")
		require.Equal(t, 2, out.status)
		require.Contains(t, out.stderr, `table "nowhere" does not exist`)
	})
}

// What indents its lines writes JSON all the same, and a list without elements is a list.
func TestIndentedLogsWithoutTriggers(t *testing.T) {
	t.Parallel()
	path := logFile(t, `{"msg":"finalized","key":"1"}`, ` 	{"msg":"finalized","key":"1"}`, "  ")
	r := auditLogs(t, 1, path)
	require.Zero(t, r.BadLines)
	require.EqualValues(t, 2, r.Finalizations)
	require.Equal(t, []string{}, r.Worst[0].Triggers)
}
