package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

// vectors is how a test of golden vectors begins.
var vectors = regexp.MustCompile(`(?m)^func Test\w*GoldenVectors\w*\(`)

// checkGolden runs the tests that hold what outlives a process to vectors in files: encoded keys, dedup keys, partitions,
// digests, signatures. Changing one would open finished keys again.
func checkGolden(ctx context.Context, out io.Writer, tagged []workspace.Module) (findings []string, err error) {
	for _, m := range tagged {
		dirs, err := vectorTests(ctx, m)
		if err != nil {
			return nil, err
		}
		if len(dirs) == 0 {
			if m.Dir == tagged[0].Dir {
				findings = append(findings, m.Path+": no test of golden vectors; their names are to contain GoldenVectors")
			}
			continue
		}
		test := exec.CommandContext(ctx, "go", append([]string{"test", "-buildvcs=false", "-count=1", "-run", "GoldenVectors"}, dirs...)...)
		test.Dir = m.Dir
		text, err := test.CombinedOutput()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && ctx.Err() == nil {
			findings = append(findings, fmt.Sprintf("%s: %v\n%s", m.Path, err, text))
		} else if err != nil {
			return nil, err
		}
		fmt.Fprintf(out, "  %s: %s\n", m.Path, strings.Join(dirs, " "))
	}
	return findings, nil
}

// vectorTests returns the folders of a module with tests of golden vectors.
func vectorTests(ctx context.Context, m workspace.Module) (dirs []string, err error) {
	all, err := files(ctx, m.Dir)
	if err != nil {
		return nil, err
	}
	for _, f := range all {
		dir := "./" + filepath.ToSlash(filepath.Dir(f.Path()))
		if !strings.HasSuffix(f.Path(), "_test.go") || slices.Contains(dirs, dir) || nested(m.Dir, dir) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(m.Dir, f.Path()))
		if err != nil {
			return nil, err
		}
		if vectors.Match(text) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// nested reports whether a folder of a module belongs to a module inside of it.
func nested(module, dir string) bool {
	for ; dir != "."; dir = filepath.ToSlash(filepath.Dir(dir)) {
		if _, err := os.Stat(filepath.Join(module, dir, "go.mod")); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}
