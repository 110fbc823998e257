package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests themselves through other drivers, of which make test-drivers runs all: something that each of them once broke.
func TestThroughOtherDrivers(t *testing.T) {
	t.Parallel()
	needServers(t)
	for driver, run := range map[string]struct{ pattern, pkg, says string }{
		"lib/pq":   {"^TestPutKeepsWhatItIsGiven$/^sql$", "./outbox", "1 passed, 0 failed"},
		"pgdriver": {"^TestASwallowedErrorIsNoSuccess$/^sql$", "./outbox/inbox", "1 passed, 0 failed"},
		"mattn":    {"^TestRelayPublishesAllInOrder$/^sqlite-wal$", "./outbox/relay", "1 passed, 0 failed"},
	} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			cmd := testallIn(t, filepath.Join("..", ".."))
			cmd.Args = []string{cmd.Args[0], "-race=false", "-timeout=2m", "-driver", driver, "-run", run.pattern,
				"-events", filepath.Join(t.TempDir(), "events"), run.pkg}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Contains(t, string(out), run.says)
		})
	}
}

func TestAnUnknownDriver(t *testing.T) {
	t.Parallel()
	dir := workspaceOf(t, map[string]string{"m/go.mod": "module m\n\ngo 1.26.0\n"})
	cmd := testallIn(t, dir)
	cmd.Args = append(cmd.Args, "-driver=oracle")
	out, err := cmd.CombinedOutput()
	require.Equal(t, 2, exitStatus(t, err), "%s", out)
	require.Contains(t, string(out), `-driver is "oracle"; there are lib/pq, mattn, modernc, pgdriver, pgx`)
}

// A file takes another's place, and the tests are told whose it is.
func TestADriversFile(t *testing.T) {
	t.Parallel()
	for name, d := range drivers {
		s := &surroundings{dir: t.TempDir()}
		require.NoError(t, s.choose(name, d))
		require.Contains(t, s.env, "ENDSTATE_TEST_DRIVER="+name)
		if d.file == "" {
			require.Empty(t, s.overlay)
			continue
		}
		text, err := os.ReadFile(s.overlay)
		require.NoError(t, err)
		var overlay struct{ Replace map[string]string }
		require.NoError(t, json.Unmarshal(text, &overlay))
		require.Len(t, overlay.Replace, 1)
		require.FileExists(t, filepath.Join("..", "..", d.file))
		require.FileExists(t, filepath.Join("..", "..", "internal", "dbtest", d.place))
	}
}

func TestARecord(t *testing.T) {
	t.Parallel()
	page := `# Page

| server | version | passed | failed | on | by |
| --- | --- | --- | --- | --- | --- |
| PostgreSQL 14 | 14.1 | 1 | 1 | 2026-01-01 | ` + "`old`" + ` |
| PostgreSQL 16 | 16.1 | 1 | 0 | 2026-01-01 | ` + "`old`" + ` |

| driver | version | passed | failed | on | by |
| --- | --- | --- | --- | --- | --- |
`
	on := time.Date(2026, 12, 31, 23, 0, 0, 0, time.UTC)
	for _, r := range []result{
		{"server", "PostgreSQL 14", "14.2", 20, 0, on, "new"},
		{"server", "PostgreSQL 15", "15.2", 21, 0, on, "new"},
		{"driver", "example.com/db", "v1.2.3", 22, 3, on, "new"},
	} {
		var err error
		page, err = r.into(page)
		require.NoError(t, err)
	}
	require.Equal(t, `# Page

| server | version | passed | failed | on | by |
| --- | --- | --- | --- | --- | --- |
| PostgreSQL 14 | 14.2 | 20 | 0 | 2026-12-31 | 'new' |
| PostgreSQL 15 | 15.2 | 21 | 0 | 2026-12-31 | 'new' |
| PostgreSQL 16 | 16.1 | 1 | 0 | 2026-01-01 | 'old' |

| driver | version | passed | failed | on | by |
| --- | --- | --- | --- | --- | --- |
| example.com/db | v1.2.3 | 22 | 3 | 2026-12-31 | 'new' |
`, strings.ReplaceAll(page, "`", "'"))
	_, err := result{table: "broker"}.into(page)
	require.ErrorContains(t, err, `it has no table that begins with "broker"`)
}
