package main

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

// Whatever expressions people give, and whatever lines come: they are refused by the flag's name, or each line counts that they
// match, none besides, and nothing that is printed steers a terminal.
func FuzzPattern(f *testing.F) {
	f.Add("completed", "", `batch=(?P<key>\S+) trigger=(?P<trigger>\S+)`, "batch=1 trigger=sweep completed\nbatch=\x1b[2J completed\n")
	f.Fuzz(func(t *testing.T, message, start, pattern, content string) {
		var stdout, stderr bytes.Buffer
		a := &app{stdin: strings.NewReader(content), stdout: &stdout, stderr: &stderr}
		status := run(t.Context(), []string{"audit", "logs", "-", "--message=" + message, "--start=" + start, "--pattern=" + pattern, "--json"}, a)
		for _, said := range []string{stdout.String(), stderr.String()} {
			require.False(t, strings.ContainsFunc(said, func(r rune) bool { return r != '\n' && unicode.IsControl(r) }), "%q", said)
		}
		if stdout.Len() == 0 {
			require.Equal(t, 2, status)
			require.Regexp(t, "^endstate: (--(message|start|pattern)|-: )", stderr.String())
			return
		}
		var report logReport
		require.NoError(t, json.Unmarshal(stdout.Bytes(), &report))
		require.Equal(t, status == 1, report.Repeated > 0 && stderr.Len() == 0, "%d: %s", status, stderr.String())
		if pattern == "" {
			return
		}

		// A line that nothing is put around counts as the expressions say.
		counts, key := regexp.MustCompile(message), regexp.MustCompile(pattern)
		m, err := newMatcher("message", message)
		require.NoError(t, err)
		s := newLogScan(logConfig{message: m, pattern: key})
		var finalizations, bad int64
		for line := range strings.Lines(content) {
			s.textLine([]byte(line))
			if message == "" || !counts.MatchString(line) {
				continue
			}
			if groups := key.FindStringSubmatch(line); groups == nil || groups[key.SubexpIndex("key")] == "" {
				bad++
			} else {
				finalizations++
			}
		}
		require.Equal(t, [2]int64{finalizations, bad}, [2]int64{s.Finalizations, s.BadLines}, "%q, %q", message, content)
	})
}
