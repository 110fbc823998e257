package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFaultsNameTheirTests(t *testing.T) {
	lines, err := brokenFaults(folder(t, map[string]string{
		"docs/faults.md": `# Faults

| # | invariant | where |
| --- | --- | --- |
| I1 | one | [` + "`door.requireOne`" + `](../door/one_test.go) |

| # | fault | tests |
| --- | --- | --- |
| F1 | killed | [` + "`door.TestKilled`" + `](../door/one_test.go), [` + "`door.TestCut`" + `](../door/one_test.go), [` + "`door.TestGone`" + `](../door/one_test.go) |
| F2 | cut | |
| F3 | hangs | **open** |
| F4 | moved | [` + "`door.TestMoved`" + `](../door/one_test.go) |
`,
		"door/one_test.go": `package door

// requireOne checks I1.
func requireOne() {}

// F1: killed.
func TestKilled(t *testing.T) {}

// Cut, as F3.
func TestCut(t *testing.T) { requireOne("I7") }
`,
		"door/two_test.go":        "package door\n\n// F4: moved here.\nfunc TestMoved(t *testing.T) {}\n",
		"door/testdata/x_test.go": "no Go, F9",
	}))
	require.NoError(t, err)
	require.Equal(t, []string{
		"docs/faults.md: F2 names no test, and isn't marked **open**",
		"docs/faults.md: door.TestGone isn't in door/one_test.go; it is nowhere",
		"docs/faults.md: door.TestMoved isn't in door/one_test.go; it is in door/two_test.go",
		"door/one_test.go cites I7, which isn't in docs/faults.md",
		"door/one_test.go: TestCut names F3, whose row in docs/faults.md doesn't name it",
		"door/one_test.go: the comment of TestCut doesn't name F1, in whose row of docs/faults.md it stands",
	}, lines)
}
