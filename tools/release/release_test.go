package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

// Each module of the tree that users install can be installed by its version, in an empty folder.
func TestInstallByVersion(t *testing.T) {
	t.Chdir("../..")
	tagged, err := workspace.Tagged(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, tagged)
	findings, err := checkInstall(t.Context(), t.Output(), tagged)
	require.NoError(t, err)
	require.Empty(t, findings)
}

// What can be checked of the tree without building it.
func TestTreeIsReleasable(t *testing.T) {
	t.Chdir("../..")
	tagged, err := workspace.Tagged(t.Context())
	require.NoError(t, err)
	for name, check := range map[string]func() ([]string, error){
		"go.mod":    func() ([]string, error) { return checkRequirements(t.Context(), t.Output(), tagged) },
		"changelog": func() ([]string, error) { return checkChangelog(t.Context(), t.Output(), tagged) },
		"zips":      func() ([]string, error) { return checkZips(t.Context(), t.Output(), tagged) },
		"licences":  func() ([]string, error) { return checkLicences(t.Context(), t.Output(), tagged) },
	} {
		findings, err := check()
		require.NoError(t, err, name)
		require.Empty(t, findings, name)
	}
}

var house = map[string]string{
	"go.work": `go 1.26.0
use (
	.
	./command
)
replace (
	example.com/house v0.3.1 => ./
	example.com/house/command v0.3.1 => ./command
)
`,
	"CHANGELOG.md":    "# Changelog\n\n## Unreleased (v0.3.1)\n",
	"LICENSE":         "none\n",
	"go.mod":          "module example.com/house\n\ngo 1.26.0\n",
	"house.go":        "package house\n\n// Door opens.\nfunc Door() {}\n",
	"internal/in.go":  "package internal\n\nfunc In() {}\n",
	"command/go.mod":  "module example.com/house/command\n\ngo 1.26.0\n\nrequire example.com/house v0.3.1\n",
	"command/main.go": "package main\n\nimport (\n\t\"fmt\"\n\t\"runtime/debug\"\n\n\t_ \"example.com/house\"\n)\n\nfunc main() {\n\tinfo, _ := debug.ReadBuildInfo()\n\tfmt.Println(info.Main.Version)\n}\n",
}

// repository makes a folder with a git repository of a workspace, makes it the current one, and returns the modules.
func repository(t *testing.T, changes map[string]string) []workspace.Module {
	t.Helper()
	t.Chdir(t.TempDir())
	t.Setenv("GOWORK", "")
	t.Setenv("GOFLAGS", "")
	write(t, house)
	write(t, changes)
	for _, args := range [][]string{
		{"init", "-q"}, {"add", "."}, {"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "first"},
		{"tag", "v0.3.0"}, {"tag", "v0.2.9"},
	} {
		_, err := git(t.Context(), args...)
		require.NoError(t, err)
	}
	tagged, err := workspace.Tagged(t.Context())
	require.NoError(t, err)
	return tagged
}

func write(t *testing.T, files map[string]string) {
	t.Helper()
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
	}
}

func TestRequirementsThatCannotBeInstalled(t *testing.T) {
	tagged := repository(t, map[string]string{
		"command/go.mod": "module example.com/house/command\n\ngo 1.26.0\n\nrequire (\n\texample.com/house v0.3.0\n\texample.com/house/bench v0.0.0\n)\n\nreplace example.com/house => ../\n",
	})
	findings, err := checkRequirements(t.Context(), t.Output(), tagged)
	require.NoError(t, err)
	require.Equal(t, []string{
		"example.com/house/command: go.mod replaces example.com/house, which go install refuses",
		"example.com/house/command: go.mod requires example.com/house at v0.3.0; the version to come is v0.3.1",
		"example.com/house/command: go.mod requires example.com/house/bench, which is never tagged",
	}, findings)
}

func TestChangelogNamesTheVersion(t *testing.T) {
	tagged := repository(t, map[string]string{"CHANGELOG.md": "# Changelog of v0.3.1\n\n## Unreleased\n\n## v0.3.0\n"})
	findings, err := checkChangelog(t.Context(), t.Output(), tagged)
	require.NoError(t, err)
	require.Len(t, findings, 2)
}

func TestZipsHoldNothingThatNobodyNeeds(t *testing.T) {
	tagged := repository(t, map[string]string{
		".gitignore":            "/bin/\n",
		"bin/built":             strings.Repeat("x", maxFile+1),
		"testdata/huge":         strings.Repeat("x", maxFile+1),
		"docs/bench.json":       "{}",
		"command/testdata/huge": strings.Repeat("x", maxFile+1),
	})
	findings, err := checkZips(t.Context(), t.Output(), tagged)
	require.NoError(t, err)
	require.Equal(t, []string{
		"example.com/house: docs/bench.json is a benchmark's output, and belongs in a module that is never tagged",
		"example.com/house: testdata/huge has 102401 bytes, more than 102400",
		"example.com/house/command: testdata/huge has 102401 bytes, more than 102400",
	}, findings)
}

// A patch may not break the API, a minor version before v1 may. What is internal is nobody's API.
func TestAPIBreaksOnlyWithAMinorVersion(t *testing.T) {
	tagged := repository(t, nil)
	write(t, map[string]string{"house.go": "package house\n\n// Gate opens.\nfunc Gate() {}\n", "internal/in.go": "package internal\n"})

	findings, err := checkAPI(t.Context(), t.Output(), tagged)
	require.NoError(t, err)
	require.Len(t, findings, 1)
	require.Contains(t, findings[0], "v0.3.1 breaks the API of v0.3.0")
	require.Contains(t, findings[0], "Door: removed")

	for i := range tagged {
		tagged[i].Version = "v0.4.0"
	}
	var out strings.Builder
	findings, err = checkAPI(t.Context(), &out, tagged)
	require.NoError(t, err)
	require.Empty(t, findings)
	require.Contains(t, out.String(), "Door: removed")
	require.Contains(t, out.String(), "example.com/house/command has no tag yet")
}

// The binary of a module that has a replace can't be installed, and a command that doesn't say its version is found out.
func TestInstallFindsWhatUsersWouldMeet(t *testing.T) {
	for want, changes := range map[string]map[string]string{
		"replace":                 {"command/go.mod": house["command/go.mod"] + "\nreplace example.com/house => ../\n"},
		`calls its version "new"`: {"command/main.go": "package main\n\nimport (\n\t\"fmt\"\n\n\t_ \"example.com/house\"\n)\n\nfunc main() { fmt.Println(\"new\") }\n"},
	} {
		tagged := repository(t, changes)
		findings, err := checkInstall(t.Context(), t.Output(), tagged)
		require.NoError(t, err)
		require.Len(t, findings, 1)
		require.Contains(t, findings[0], want)
	}
}

func TestGoldenVectorsAreFoundByTheirNames(t *testing.T) {
	test := func(body string) map[string]string {
		return map[string]string{"a/a.go": "package a\n", "a/a_test.go": "package a\n\nimport \"testing\"\n\nfunc TestKeyGoldenVectors(t *testing.T) {" + body + "}\n"}
	}
	for want, changes := range map[string]map[string]string{
		"":                          test(""),
		"--- FAIL":                  test(" t.Fail() "),
		"no test of golden vectors": nil,
	} {
		tagged := repository(t, changes)
		findings, err := checkGolden(t.Context(), t.Output(), tagged)
		require.NoError(t, err)
		if want == "" {
			require.Empty(t, findings)
			continue
		}
		require.Len(t, findings, 1)
		require.Contains(t, findings[0], want)
	}
}
