package main

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWords(t *testing.T) {
	dir := folder(t, map[string]string{
		".gitignore": "/bin\n",
		"README.md":  "All is well.\nIt recieves what\nmends it, for ever.\n",
		"a.go":       "package a\n\n// F tells whether it is recommended.\n",
		"bin/b.md":   "mend",
		"data.json":  "mend",
	})
	require.NoError(t, exec.Command("git", "-C", dir, "init", "-q").Run())
	lines, err := brokenWords(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, []string{
		`README.md:2: "recieves" is spelled "receives"`,
		`README.md:3: "mends": say fix, repair`,
		`README.md:3: "for ever": say forever`,
		`a.go:3: "tells whether": say report whether`,
	}, lines)
}
