package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSummary(t *testing.T) {
	for _, tt := range []struct {
		name, events string
		failed       int
		last         string
		says         []string
	}{
		{"passes", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/b"}
{"Action":"pass","Package":"p","Test":"A/b"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Elapsed":1.5}`, 0, "1 passed, 0 failed", []string{"ok      1.50s  p (2)"}},
		{"a skip counts as a failure", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"A","Output":"needs a server\n"}
{"Action":"skip","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`, 1, "0 passed, 1 failed", []string{"needs a server", "skipped, which counts as a failure: p A"}},
		{"a failing subtest is counted once", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/b"}
{"Action":"run","Package":"p","Test":"A/c"}
{"Action":"fail","Package":"p","Test":"A/b"}
{"Action":"pass","Package":"p","Test":"A/c"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`, 1, "1 passed, 1 failed", []string{"failed: p A/b"}},
		{"a parent that fails by itself", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/b"}
{"Action":"pass","Package":"p","Test":"A/b"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`, 1, "1 passed, 1 failed", []string{"failed: p A"}},
		{"a parent that fails beside a skip", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/b"}
{"Action":"skip","Package":"p","Test":"A/b"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`, 2, "0 passed, 2 failed", nil},
		{"a slash in a subtest's name", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/b/c"}
{"Action":"pass","Package":"p","Test":"A/b/c"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`, 0, "1 passed, 0 failed", nil},
		{"tests of one name in two packages", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"q","Test":"A"}
{"Action":"fail","Package":"q","Test":"A"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"fail","Package":"q"}
{"Action":"pass","Package":"p"}`, 1, "1 passed, 1 failed", []string{"failed: q A"}},
		{"a panic beside a test that runs", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"B"}
{"Action":"output","Package":"p","Test":"B","Output":"panic: oh\n"}
{"Action":"fail","Package":"p","Test":"B"}
{"Action":"fail","Package":"p"}`, 2, "0 passed, 2 failed", []string{"panic: oh", "FAIL p A, which never ended"}},
		{"a leak that is found after the tests", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Output":"found unexpected goroutines\n"}
{"Action":"fail","Package":"p"}`, 1, "1 passed, 1 failed", []string{"found unexpected goroutines", "failed apart from its tests: p"}},
		{"a package that doesn't build", `{"ImportPath":"p [p.test]","Action":"build-output","Output":"x.go:1: bad\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`, 1, "0 passed, 1 failed", []string{"x.go:1: bad", "failed apart from its tests: p"}},
		{"a package without tests", `{"Action":"skip","Package":"q"}
{"Action":"run","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`, 0, "1 passed, 0 failed", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			file := filepath.Join(t.TempDir(), "events")
			r, err := newReport(file, &out)
			require.NoError(t, err)
			for line := range strings.Lines(tt.events) {
				_, err := r.line([]byte(strings.TrimSpace(line)))
				require.NoError(t, err)
			}
			_, failed, err := r.summary()
			require.NoError(t, err)
			require.Equal(t, tt.failed, failed)
			require.True(t, strings.HasSuffix(out.String(), "\n"+tt.last+"\n"), out.String())
			for _, s := range tt.says {
				require.Contains(t, out.String(), s)
			}
			written, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, tt.events+"\n", string(written))
		})
	}
}
