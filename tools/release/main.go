// Command release checks what a release promises, for each module that users install, which go.work lists at the version to
// come: that it can be installed by its version, what its API breaks since its last tag, that what outlives a process is
// encoded as before (golden vectors), under which licences its dependencies are, and that its zip is small. It prints what it
// finds and exits with 1, or with 2 if it couldn't look. It is to be run in the folder of go.work.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	found, err := release(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(2)
	}
	if found > 0 {
		os.Exit(1)
	}
}

// release runs all checks and returns how many things they found.
func release(ctx context.Context, out io.Writer) (found int, err error) {
	tagged, err := workspace.Tagged(ctx)
	if err != nil {
		return 0, err
	}
	for _, check := range []struct {
		about string
		run   func(context.Context, io.Writer, []workspace.Module) (findings []string, err error)
	}{
		{"go.mod", checkRequirements},
		{"changelog", checkChangelog},
		{"zips", checkZips},
		{"licences", checkLicences},
		{"api", checkAPI},
		{"golden vectors", checkGolden},
		{"install", checkInstall},
	} {
		fmt.Fprintln(out, "release:", check.about)
		findings, err := check.run(ctx, out, tagged)
		if err != nil {
			return found, fmt.Errorf("%s: %w", check.about, err)
		}
		found += len(findings)
		for _, f := range findings {
			fmt.Fprintln(out, f)
		}
	}
	if found == 0 {
		fmt.Fprintln(out, "release: all is well. The tags, in the order in which they are to be pushed:")
		for _, m := range tagged {
			fmt.Fprintln(out, "  git tag", m.Tag(m.Version))
		}
	}
	return found, nil
}

// checkRequirements finds what keeps a module from being installed by its version: a replace, or a requirement of one of ours
// at another version than the one to come.
func checkRequirements(_ context.Context, _ io.Writer, tagged []workspace.Module) (findings []string, err error) {
	versions := map[string]string{}
	for _, m := range tagged {
		versions[m.Path] = m.Version
	}
	for _, m := range tagged {
		file, err := workspace.ReadMod(m.Dir)
		if err != nil {
			return nil, err
		}
		for _, r := range file.Replace {
			findings = append(findings, fmt.Sprintf("%s: go.mod replaces %s, which go install refuses", m.Path, r.Old.Path))
		}
		for _, r := range file.Require {
			switch version, ours := versions[r.Mod.Path]; {
			case ours && r.Mod.Version != version:
				findings = append(findings, fmt.Sprintf("%s: go.mod requires %s at %s; the version to come is %s", m.Path, r.Mod.Path, r.Mod.Version, version))
			case !ours && strings.HasPrefix(r.Mod.Path, tagged[0].Path+"/"):
				findings = append(findings, fmt.Sprintf("%s: go.mod requires %s, which is never tagged", m.Path, r.Mod.Path))
			}
		}
	}
	return findings, nil
}

// checkChangelog finds versions to come that no heading of the changelog names.
func checkChangelog(_ context.Context, _ io.Writer, tagged []workspace.Module) (findings []string, err error) {
	text, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		return nil, err
	}
	named := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			for _, word := range strings.FieldsFunc(heading, func(r rune) bool { return strings.ContainsRune(" ,:()[]\n", r) }) {
				named[word] = true
			}
		}
	}
	for _, m := range tagged {
		if !named[m.Version] {
			findings = append(findings, fmt.Sprintf("%s: no heading of CHANGELOG.md names %s", m.Path, m.Version))
		}
	}
	return findings, nil
}
