package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Positions stay what they are in the tree: the recorder prints them.
func TestFunctionsReportWithoutMovingALine(t *testing.T) {
	text := "// Package p is one.\npackage p\n\nimport \"fmt\"\n\nfunc F() { fmt.Println() }\n\nfunc (t *T) M() {\n\tgo func() {}()\n}\n\nfunc outside() int\n"
	got, err := reporting("p.go", []byte(text))
	require.NoError(t, err)
	lines := strings.Split(string(got), "\n")
	require.Contains(t, lines[1], "package p; import endstatewalk")
	require.Equal(t, "func F() { endstatewalk.Enter();  fmt.Println() }", lines[5])
	require.Equal(t, "func (t *T) M() { endstatewalk.Enter(); ", lines[7])
	require.Equal(t, "\tgo func() {}()", lines[8])
	require.Equal(t, "func outside() int", lines[11])
}
