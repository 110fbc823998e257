package main

import (
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
	}{
		{"passes", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/b"}
{"Action":"pass","Package":"p","Test":"A/b"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`, 0, "1 passed, 0 failed"},
		{"a skip counts as a failure", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"A","Output":"needs a server\n"}
{"Action":"skip","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`, 1, "0 passed, 1 failed"},
		{"a failing subtest is counted once", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/b"}
{"Action":"run","Package":"p","Test":"A/c"}
{"Action":"fail","Package":"p","Test":"A/b"}
{"Action":"pass","Package":"p","Test":"A/c"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`, 1, "1 passed, 1 failed"},
		{"a parent that fails by itself", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/b"}
{"Action":"pass","Package":"p","Test":"A/b"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`, 1, "1 passed, 1 failed"},
		{"a package that doesn't build", `{"ImportPath":"p","Action":"build-output","Output":"x.go:1: bad\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p"}`, 1, "0 passed, 1 failed"},
		{"a package without tests", `{"Action":"skip","Package":"p"}`, 0, "0 passed, 0 failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			r, err := newReport(filepath.Join(t.TempDir(), "events"), &out)
			require.NoError(t, err)
			for line := range strings.Lines(tt.events) {
				require.NoError(t, r.line([]byte(strings.TrimSpace(line))))
			}
			require.NoError(t, r.close())
			require.Equal(t, tt.failed, r.summary())
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			require.Equal(t, tt.last, lines[len(lines)-1])
		})
	}
}
