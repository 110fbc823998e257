package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// parity has FUZZ for what it is to be, lest its targets be taken for this package's.
const parity = `package p

import "testing"

func FUZZRight(f *testing.F) {
	f.Add(1)
	f.Fuzz(func(t *testing.T, n int) {})
}

func FUZZWrong(f *testing.F) {
	f.Add("a")
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) != 1 {
			t.Fatal("found:", s)
		}
	})
}

func FUZZBare(f *testing.F) { f.Fuzz(func(t *testing.T, n int) {}) }
`

// Each target is run, what it finds is said, and one without inputs of its own counts as a failure.
func TestEveryTargetIsRun(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{
		"go.work": "go 1.26.0\n\nuse (\n\t.\n\t./nested\n)\n", "go.mod": "module example.com/p\n\ngo 1.26.0\n", "p_test.go": strings.ReplaceAll(parity, "FUZZ", "Fuzz"),
		"nested/go.mod": "module example.com/p/nested\n\ngo 1.26.0\n", "nested/deep/n_test.go": strings.ReplaceAll(parity, "FUZZ", "FuzzNested"),
		"testdata/fuzz/FuzzRight/one": "go test fuzz v1\nint(1)\n", "testdata/fuzz/FuzzWrong/one": "go test fuzz v1\nstring(\"b\")\n",
		"nested/deep/testdata/fuzz/FuzzNestedRight/one": "go test fuzz v1\nint(1)\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
	}
	t.Setenv("GOFLAGS", "")
	var out strings.Builder
	found, err := fuzz(t.Context(), options{time: "500x", names: []string{"Right", "FuzzBare"}}, &out)
	require.NoError(t, err, out.String())
	require.Equal(t, 1, found, out.String())
	require.Regexp(t, `(?m)^ok .* \. FuzzRight$`, out.String())
	require.Regexp(t, `(?m)^ok .* nested/deep FuzzNestedRight$`, out.String())
	require.Contains(t, out.String(), "FuzzBare has no inputs")
	out.Reset()
	found, err = fuzz(t.Context(), options{time: "500x", names: []string{"FuzzWrong"}}, &out)
	require.NoError(t, err)
	require.Equal(t, 1, found)
	require.Contains(t, out.String(), "found:")
	_, err = fuzz(t.Context(), options{names: []string{"Nobody"}}, &out)
	require.ErrorContains(t, err, "no such fuzz target")
}
