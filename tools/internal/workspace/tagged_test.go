package workspace

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// workspaceOf makes a folder with the files given, and makes it the current one.
func workspaceOf(t *testing.T, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	t.Chdir(dir)
	t.Setenv("GOWORK", "")
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOFLAGS", "")
}

var threeModules = map[string]string{
	"go.work": `go 1.26.0
use (
	.
	./command
	./library
)
replace (
	example.com/house/command v0.3.0 => ./command
	example.com/house/library v0.3.0 => ./library
	example.com/house v0.3.0 => ./
)
`,
	"go.mod":          "module example.com/house\n\ngo 1.26.0\n",
	"house.go":        "package house\n",
	"library/go.mod":  "module example.com/house/library\n\ngo 1.26.0\n\nrequire example.com/house v0.3.0\n",
	"library/main.go": "package library\n\nimport _ \"example.com/house\"\n",
	"command/go.mod":  "module example.com/house/command\n\ngo 1.26.0\n\nrequire (\n\texample.com/house v0.3.0\n\texample.com/house/library v0.3.0\n)\n",
	"command/main.go": "package main\n\nimport _ \"example.com/house/library\"\n\nfunc main() {}\n",
}

func TestTaggedAfterWhatTheyRequire(t *testing.T) {
	workspaceOf(t, threeModules)
	tagged, err := Tagged(t.Context())
	require.NoError(t, err)
	var tags []string
	for _, m := range tagged {
		tags = append(tags, m.Tag(m.Version))
	}
	require.Equal(t, []string{"v0.3.0", "library/v0.3.0", "command/v0.3.0"}, tags)
}

// A module that lacks a requirement builds in the workspace, but not for those who install it.
func TestAloneSeesWhatAWorkspaceHides(t *testing.T) {
	files := maps.Clone(threeModules)
	files["command/go.mod"] = "module example.com/house/command\n\ngo 1.26.0\n"
	workspaceOf(t, files)
	tagged, err := Tagged(t.Context())
	require.NoError(t, err)
	list := func(dir string) error {
		modfile, err := Alone(dir, t.TempDir(), tagged)
		require.NoError(t, err)
		cmd := exec.Command("go", "list", "-modfile="+modfile, "-deps", "./...")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off")
		_, err = Output(cmd)
		return err
	}
	_, err = Output(exec.Command("go", "build", "./...", "./command", "./library"))
	require.NoError(t, err, "in the workspace")
	require.NoError(t, list("library"))
	require.ErrorContains(t, list("command"), "example.com/house/library")
}

func TestTidyBeforeAnythingIsPublished(t *testing.T) {
	files := maps.Clone(threeModules)
	files["command/main.go"] = "package main\n\nimport _ \"example.com/house\"\n\nfunc main() {}\n"
	workspaceOf(t, files)
	tagged, err := Tagged(t.Context())
	require.NoError(t, err)
	require.NoError(t, Tidy(t.Context(), "command", tagged))
	mod, err := os.ReadFile("command/go.mod")
	require.NoError(t, err)
	require.Equal(t, "module example.com/house/command\n\ngo 1.26.0\n\nrequire example.com/house v0.3.0\n", string(mod))
}
