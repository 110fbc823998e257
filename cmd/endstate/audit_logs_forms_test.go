package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	byteorder "encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"
)

// journalEntry is an entry of journald's export format whose message is a binary field.
func journalEntry(message string, more ...string) string {
	var size [8]byte
	byteorder.LittleEndian.PutUint64(size[:], uint64(len(message)))
	return "__CURSOR=s=1;i=1\n__REALTIME_TIMESTAMP=1763204400000000\n_PID=7\nMESSAGE\n" + string(size[:]) + message + "\n" + strings.Join(append(more, ""), "\n") + "\n"
}

// F38: one and the same log, as each of those who carry logs hands it on.
func TestLogForms(t *testing.T) {
	t.Parallel()
	const first, second = `{"time":"2025-11-15T11:00:00Z","msg":"finalized","key":"b\n1","trigger":"sweep"}`, `{"time":"2025-11-15T11:00:01Z","msg":"already final","key":"b\n1","trigger":"loop"}`
	const other = `{"time":"2025-11-15T11:00:02Z","msg":"request {\"served\"}","n":[1,{"x":"}"}]}`
	const fmt1, fmt2 = `time=2025-11-15T11:00:00.000Z level=INFO msg=finalized key="b\n1" trigger=sweep`, `time=2025-11-15T11:00:01.000Z level=INFO msg="already final" key="b\n1" trigger=loop`
	docker := func(text string) string {
		line, err := json.Marshal(map[string]string{"log": text, "stream": "stderr", "time": "2025-11-15T11:00:00.123456789Z"})
		require.NoError(t, err)
		return string(line)
	}
	journal := func(fields map[string]any) string {
		fields["__CURSOR"], fields["__REALTIME_TIMESTAMP"] = "s=1", "1763204400000000"
		line, err := json.Marshal(fields)
		require.NoError(t, err)
		return string(line)
	}
	indented := func(text string) string {
		var b bytes.Buffer
		require.NoError(t, json.Indent(&b, []byte(text), "", "  "))
		return b.String()
	}
	numbers := func(text string) (list []int) {
		for _, b := range []byte(text) {
			list = append(list, int(b))
		}
		return list
	}
	var parts []string // Docker splits after 16 KiB
	long := strings.Replace(first, `"key"`, `"padding":"`+strings.Repeat("x", 40_000)+`","key"`, 1) + "\n"
	for text := long; text != ""; text = text[min(len(text), 16384):] {
		parts = append(parts, docker(text[:min(len(text), 16384)]))
	}
	for name, lines := range map[string][]string{
		"plain":               {first, other, second},
		"docker":              {docker(first + "\n"), docker(other + "\n"), docker(second + "\r\n")},
		"docker in parts":     append(parts, docker(other+"\n"), docker(second+"\n")),
		"docker's text":       {docker(fmt1 + "\n"), docker(fmt2 + "\n")},
		"a shipper's log":     {docker(first), docker(second)},
		"cri":                 {"2025-11-15T11:00:00.123456789Z stdout F " + first, "2025-11-15T11:00:00.123456789+01:00 stderr F " + other, "2025-11-15T11:00:01Z stdout F " + second},
		"cri in parts":        {"2025-11-15T11:00:00.1Z stdout P " + first[:20], "2025-11-15T11:00:00.1Z stderr P " + second[:30], "2025-11-15T11:00:00.1Z stdout F " + first[20:], "2025-11-15T11:00:00.1Z stderr F " + second[30:]},
		"cri's text":          {"2025-11-15T11:00:00.123456789Z stdout F " + fmt1, "2025-11-15T11:00:00.1Z stderr F " + fmt2},
		"journald json":       {journal(map[string]any{"MESSAGE": first}), journal(map[string]any{"MESSAGE": numbers(second)}), journal(map[string]any{"MESSAGE": nil})},
		"journald's own":      {journal(map[string]any{"MESSAGE": "finalized", "KEY": "b\n1", "TRIGGER": "sweep"}), journal(map[string]any{"MESSAGE": "already final", "KEY": "b\n1", "TRIGGER": "loop"})},
		"journald export":     {journalEntry(first), strings.TrimSuffix("__CURSOR=2\nMESSAGE="+second+"\n", "\n")},
		"journald export own": {journalEntry("finalized", "TRIGGER=sweep", "KEY\n\x03\x00\x00\x00\x00\x00\x00\x00b\n1"), journalEntry("already final", "TRIGGER=loop", "KEY\n\x03\x00\x00\x00\x00\x00\x00\x00b\n1")},
		"journald pretty":     {indented(journal(map[string]any{"MESSAGE": first})), indented(journal(map[string]any{"MESSAGE": second}))},
		"json sequence":       {"\x1e" + first, "\x1e" + second},
		"slog's text":         {fmt1, "time=2025-11-15T11:00:02.000Z level=INFO msg=\"request served\"", fmt2},
		"indented":            {indented(first), indented(other), indented(second)},
		"indented in a list":  {"[", "  " + strings.ReplaceAll(indented(first), "\n", "\n  ") + ",", "  " + strings.ReplaceAll(indented(second), "\n", "\n  "), "]"},
		"indented by docker":  nil,
		"docker compose":      {"app-1  | " + first, "app-1  | " + second},
		"filebeat":            {journalMessage(t, first), journalMessage(t, second)},
	} {
		if name == "indented by docker" { // each line by itself
			lines = nil
			for _, text := range []string{first, second} {
				for line := range strings.SplitSeq(indented(text), "\n") {
					lines = append(lines, docker(line+"\n"))
				}
			}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := auditLogs(t, 1, logFile(t, lines...))
			require.EqualValues(t, 2, r.Finalizations, "%+v", r)
			require.EqualValues(t, 1, r.Aggregates)
			require.Equal(t, "b\n1", r.Worst[0].ID)
			require.Equal(t, []string{"sweep", "loop"}, sorted(r.Worst[0].Triggers))
			require.NotNil(t, r.Worst[0].First)
			require.Equal(t, "2025-11-15T11:00", r.Worst[0].First.UTC().Format("2006-01-02T15:04"))
			if name != "journald json" {
				require.Zero(t, r.BadLines, "%+v", r.Bad)
			}
		})
	}
}

// sorted puts the first trigger first: parts of lines come in the order in which they end.
func sorted(triggers []string) []string {
	if len(triggers) == 2 && triggers[0] == "loop" {
		return []string{triggers[1], triggers[0]}
	}
	return triggers
}

// journalMessage is a line that a shipper put into another's message.
func journalMessage(t testing.TB, text string) string {
	t.Helper()
	line, err := json.Marshal(map[string]any{"@timestamp": "2025-11-15T11:00:00Z", "message": text, "host": map[string]string{"name": "h"}})
	require.NoError(t, err)
	return string(line)
}

// F38: each compression, several members one after the other, from a file and from standard input, and cut off.
func TestCompressedLogs(t *testing.T) {
	t.Parallel()
	line := []byte(`{"msg":"finalized","key":"1"}` + "\n")
	twice := func(compress func(io.Writer) io.WriteCloser) []byte {
		var b bytes.Buffer
		for range 2 {
			w := compress(&b)
			_, err := w.Write(line)
			require.NoError(t, err)
			require.NoError(t, w.Close())
		}
		return b.Bytes()
	}
	bzipped, err := os.ReadFile("testdata/two-streams.log.bz2")
	require.NoError(t, err)
	for name, content := range map[string][]byte{
		"gzip":  twice(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }),
		"bzip2": bzipped,
		"xz": twice(func(w io.Writer) io.WriteCloser {
			x, err := xz.NewWriter(w)
			require.NoError(t, err)
			return x
		}),
		"zstd": append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00skip"), twice(func(w io.Writer) io.WriteCloser {
			z, err := zstd.NewWriter(w)
			require.NoError(t, err)
			return z
		})...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "log")
			require.NoError(t, os.WriteFile(path, content, 0o600))
			require.EqualValues(t, 2, auditLogs(t, 1, path).Finalizations)
			cmd := exec.CommandContext(t.Context(), binary, "audit", "logs", "-", "--json")
			cmd.Stdin = bytes.NewReader(content)
			out, err := cmd.Output()
			require.Error(t, err)
			require.Contains(t, string(out), `"finalizations":2`)

			// What was read before the end that is missing is shown, with an error, and so is what other files have.
			require.NoError(t, os.WriteFile(path, content[:len(content)-5], 0o600))
			r := cli(t, "", "audit", "logs", "--json", logFile(t, string(line)), path)
			require.Equal(t, 2, r.status)
			require.Contains(t, r.stderr, path+": ")
			report := decode[logReport](t, r)
			require.GreaterOrEqual(t, report.Finalizations, int64(2), "%+v", r)
			require.Len(t, report.Unread, 1)
		})
	}
	for says, content := range map[string]string{"isn't read here": "PK\x03\x04", "dictionary": "\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x28\x00\x00\x00"} {
		r := cli(t, "", "audit", "logs", logFile(t, content))
		require.Equal(t, 2, r.status)
		require.Contains(t, r.stderr, says)
	}
}

// F38: nothing found doesn't look like all well.
func TestLogsInWhichNothingIsFound(t *testing.T) {
	t.Parallel()
	for says, run := range map[string][]string{
		"no line at all":             {logFile(t)},
		"there is --pattern":         {logFile(t, "2025-11-15 finalized batch 7", "2025-11-15 finalized batch 8")},
		`such as ["request served"]`: {logFile(t, `{"msg":"request served","key":"1"}`, `{"msg":"request served","key":"1"}`)},
		`such as ["done"]`:           {logFile(t, `level=INFO msg=done key=1`)},
		"no message matches":         {"--message", "^finalised$", logFile(t, `{"msg":"finalized","key":"1"}`)},
		"name it with --key":         {logFile(t, `{"msg":"finalized","batch":"1"}`)},
		"--message-key":              {logFile(t, `{"text":"finalized","key":"1"}`)},
		"no line matches --message":  {"--pattern", "batch (?P<key>.*)", logFile(t, "batch 7 done")},
	} {
		r := cli(t, "", append([]string{"audit", "logs"}, run...)...)
		require.Equal(t, 2, r.status, "%v: %+v", run, r)
		require.Contains(t, r.stderr, says)
		require.Contains(t, r.stderr, "no finalization was found")
		require.Contains(t, r.stdout, "finalizations", "the figures are shown all the same")
	}
	require.Zero(t, cli(t, "", "audit", "logs", logFile(t, `{"msg":"not ready","key":"1"}`)).status, "the form is known, and nothing was finalized")
}

// F38: little that unpacks to much: long keys, long lines.
func TestLogsTakeBoundedMemory(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log.gz")
	f, err := os.Create(path)
	require.NoError(t, err)
	w := gzip.NewWriter(f)
	key := strings.Repeat("k", 900_000)
	for i := range 1000 {
		_, err := fmt.Fprintf(w, "{\"msg\":\"finalized\",\"key\":\"%s%d\",\"trigger\":\"%[1]s\"}\n", key[:450_000], i)
		require.NoError(t, err)
	}
	_, err = io.CopyN(w, zeros{}, 100<<20) // a line of its own
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, f.Close())
	run := start(t, "", "audit", "logs", "--json", path)
	r := run.wait(t)
	require.Zero(t, r.status, r.stderr)
	report := decode[logReport](t, r)
	require.EqualValues(t, 1000, report.Aggregates)
	require.EqualValues(t, 1, report.BadLines)
	used := run.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
	require.Less(t, used, int64(350<<10), "kB") // kept whole, the keys alone are 450 MB; the race detector takes its share
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// F38: aggregates that don't fit into memory are reported, and parts of them are looked at one after the other.
func TestLogsOfTooManyAggregates(t *testing.T) {
	t.Parallel()
	message, err := newMatcher("message", ownCompletions)
	require.NoError(t, err)
	scan := func(part, parts uint64) *logScan {
		s := newLogScan(logConfig{message: message, part: part, parts: parts})
		s.room = 60 * (aggregateSize + 10)
		for range 2 {
			for i := range 100 {
				s.line(fmt.Appendf(nil, `{"msg":"finalized","key":"b-%d"}`, i))
			}
		}
		return s
	}
	whole := scan(0, 0)
	require.ErrorContains(t, whole.incomplete(), "--part 1/4")
	require.Less(t, len(whole.aggregates), 100)
	require.LessOrEqual(t, whole.kept, whole.room)
	var seen int64
	for part := range uint64(4) {
		s := scan(part+1, 4)
		require.NoError(t, s.incomplete())
		seen += s.report().Repeated
	}
	require.EqualValues(t, 100, seen)
	lines := logFile(t, `{"msg":"finalized","key":"1"}`, `{"msg":"finalized","key":"1"}`)
	require.Equal(t, 1, cli(t, "", "audit", "logs", lines, "--part", "1/2").status+cli(t, "", "audit", "logs", lines, "--part", "2/2").status)
	require.Equal(t, 2, cli(t, "", "audit", "logs", lines, "--part", "3/2").status)
	require.Equal(t, shortened("x"), "x")
	require.NotEqual(t, shortened(strings.Repeat("x", 1000)), shortened(strings.Repeat("x", 1001)))
	require.LessOrEqual(t, len(shortened(strings.Repeat("é", 1000))), maxKept)
}

// Whatever comes in, it is read to its end or ends with an error, and what is kept stays within its bounds.
func FuzzLogs(f *testing.F) {
	for _, seed := range []string{
		`{"msg":"finalized","key":"1"}`, "msg=finalized key=1 trigger=\"x\"\n", "{\n \"msg\": \"finalized\",\n \"key\": 1\n},\n{\n", journalEntry(`{"msg":"finalized","key":"1"}`), "__CURSOR=\nMESSAGE\n\xff\xff\xff\xff\xff\xff\xff\xff",
		`{"log":"{\"msg\":\"finalized\",\"key\":\"1\"}\n","stream":"stdout","time":"x"}`, "2025-11-15T11:00:00Z stdout P {\n2025-11-15T11:00:00Z stdout F }\n", `{"MESSAGE":[123,-1,1e99,{}],"__REALTIME_TIMESTAMP":"x"}`,
		`{"msg":"finalized","key":1,"time":1e999}`, // more seconds than there are numbers for
		"\x1f\x8b\x08\x00", "BZh9", "\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16", "\x28\xb5\x2f\xfd\x04\x00", "[\n{}\n]", "\"}{", `{"msg":"{\"msg\":\"finalized\",\"key\":\"x\"}"}`,
	} {
		f.Add([]byte(seed))
	}
	message, err := newMatcher("message", ownCompletions)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, content []byte) {
		s := newLogScan(logConfig{message: message, start: message})
		a := &app{stdin: bufio.NewReader(bytes.NewReader(content))}
		_ = a.scanFile(t.Context(), s, "-")
		require.Empty(t, s.partial)
		require.Nil(t, s.object)
		for key := range s.aggregates {
			require.LessOrEqual(t, max(len(key.id), len(key.kind)), maxKept)
		}
		report := s.report()
		require.LessOrEqual(t, report.Repeated, report.Aggregates)
		if report.Finalizations == 0 && report.Starts == 0 {
			require.Error(t, s.incomplete())
		}
	})
}
