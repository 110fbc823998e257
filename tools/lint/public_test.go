package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

// folder makes a folder with the files given, and returns it.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return dir
}

func TestPublicNamesMentionNothingInternalAndSayWhatTheyAre(t *testing.T) {
	var many strings.Builder
	many.WriteString("// Package many has many names.\npackage many\n")
	for i := range 41 {
		fmt.Fprintf(&many, "\n// F%d is one of them.\nfunc F%d() {}\n", i, i)
	}
	t.Chdir(folder(t, map[string]string{
		"go.work":               "go 1.26.0\n\nuse .\n\nreplace example.com/house v0.1.0 => ./\n",
		"go.mod":                "module example.com/house\n\ngo 1.26.0\n",
		"internal/plan/plan.go": "package plan\n\ntype Row struct{}\n",
		"many/many.go":          many.String(),
		"house.go": `package house

import "example.com/house/internal/plan"

// Rows is an alias, and hides nothing.
type Rows = []plan.Row

// Door is fine, though what it hides is internal.
type Door struct{ row plan.Row }

// Open hands out what a user can't name.
func (*Door) Open() map[string]*plan.Row { return nil }

// close is nobody's business.
func (*Door) close() plan.Row { return plan.Row{} }

func (Door) Error() string { return "" }
func (Door) Shut()         {}

// Take takes a function of it.
func Take[T interface{ plan.Row | int }](func(T)) {}

// Wall has a field of it.
type Wall struct{ Row plan.Row }

// Window has what it embeds.
type Window struct{ *frame }

type frame struct{}

func (*frame) Pane() plan.Row { return plan.Row{} }

// Gates are two.
const (
	North = iota
	South
)

const East = 1

type West int // said at the line's end
`,
	}))
	t.Setenv("GOWORK", "")
	tagged, err := workspace.Tagged(t.Context())
	require.NoError(t, err)
	lines, err := brokenPublic(t.Context(), tagged)
	require.NoError(t, err)
	require.Equal(t, []string{
		"example.com/house/many: go doc -short prints 41 lines, more than 40",
		"example.com/house: Door.Open mentions example.com/house/internal/plan.Row",
		"example.com/house: Door.Shut has no doc comment",
		"example.com/house: East has no doc comment",
		"example.com/house: Rows mentions example.com/house/internal/plan.Row",
		"example.com/house: Take mentions example.com/house/internal/plan.Row",
		"example.com/house: Wall mentions example.com/house/internal/plan.Row",
		"example.com/house: Window.Pane mentions example.com/house/internal/plan.Row",
		"example.com/house: package house has no doc comment",
	}, lines)
}

func TestNestedModulesImportNothingInternalToTheRoot(t *testing.T) {
	t.Chdir(folder(t, map[string]string{
		"go.work":                  "go 1.26.0\n\nuse (\n\t.\n\t./nested\n)\n\nreplace (\n\texample.com/house v0.1.0 => ./\n\texample.com/house/nested v0.1.0 => ./nested\n)\n",
		"go.mod":                   "module example.com/house\n\ngo 1.26.0\n",
		"house.go":                 "package house\n\nimport _ \"example.com/house/internal/in\"\n",
		"internal/in/in.go":        "package in\n",
		"nested/go.mod":            "module example.com/house/nested\n\ngo 1.26.0\n\nrequire example.com/house v0.1.0\n",
		"nested/nested.go":         "package nested\n\nimport _ \"example.com/house\"\nimport _ \"example.com/house/nested/internal/own\"\n",
		"nested/nested_test.go":    "package nested_test\n\nimport _ \"example.com/house/internal/in\"\n",
		"nested/internal/own/o.go": "package own\n",
	}))
	t.Setenv("GOWORK", "")
	tagged, err := workspace.Tagged(t.Context())
	require.NoError(t, err)
	lines, err := brokenNested(t.Context(), tagged)
	require.NoError(t, err)
	require.Equal(t, []string{"example.com/house/nested imports example.com/house/internal/in, which may be another one beside a newer root"}, lines)
}
