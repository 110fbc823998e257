package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/exp/apidiff"
	"golang.org/x/mod/semver"
	"golang.org/x/tools/go/packages"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

// git runs git in the current folder, also where somebody else owns it, as in a container.
func git(ctx context.Context, args ...string) (string, error) {
	return workspace.Output(exec.CommandContext(ctx, "git", append([]string{"-c", "safe.directory=*"}, args...)...))
}

// lastTag returns the highest version at which a module was tagged, or "".
func lastTag(ctx context.Context, m workspace.Module) (string, error) {
	tags, err := git(ctx, "tag", "--list", m.Tag("v*"))
	if err != nil {
		return "", err
	}
	last := ""
	for tag := range strings.FieldsSeq(tags) {
		if version := tag[strings.LastIndex(tag, "/")+1:]; semver.Compare(version, last) > 0 {
			last = version
		}
	}
	return last, nil
}

// checkAPI compares each module's API with that of its last tag. Before v1, a minor version may break it, a patch may not.
func checkAPI(ctx context.Context, out io.Writer, tagged []workspace.Module) (findings []string, err error) {
	for _, m := range tagged {
		last, err := lastTag(ctx, m)
		if err != nil {
			return nil, err
		}
		if last == "" {
			fmt.Fprintf(out, "  %s has no tag yet: there is nothing to compare %s with\n", m.Path, m.Version)
			continue
		}
		broken, err := breaks(ctx, m, last)
		if err != nil {
			return nil, err
		}
		switch {
		case len(broken) == 0:
			fmt.Fprintf(out, "  %s: compatible with %s\n", m.Path, last)
		case semver.MajorMinor(last) == semver.MajorMinor(m.Version), semver.Major(m.Version) != "v0" && semver.Major(last) == semver.Major(m.Version):
			for _, b := range broken {
				findings = append(findings, fmt.Sprintf("%s: %s breaks the API of %s: %s", m.Path, m.Version, last, b))
			}
		default:
			fmt.Fprintf(out, "  %s: breaks the API of %s, as %s may; see that the changelog says so:\n", m.Path, last, m.Version)
			for _, b := range broken {
				fmt.Fprintln(out, "    "+b)
			}
		}
	}
	return findings, nil
}

// breaks returns the incompatible changes to a module since a version of it.
func breaks(ctx context.Context, m workspace.Module, version string) (changes []string, err error) {
	tree, err := os.MkdirTemp("", "endstate-tag")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tree)) }()
	archive := filepath.Join(tree, "tree.tar")
	if _, err := git(ctx, "archive", "--output", archive, m.Tag(version)); err != nil {
		return nil, err
	}
	if _, err := workspace.Output(exec.CommandContext(ctx, "tar", "-xf", archive, "-C", tree)); err != nil {
		return nil, err
	}
	before, err := loadAPI(ctx, filepath.Join(tree, m.Dir), m.Path)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", m.Tag(version), err)
	}
	after, err := loadAPI(ctx, m.Dir, m.Path)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", m.Path, err)
	}
	for _, change := range apidiff.ModuleChanges(before, after).Changes {
		if !change.Compatible {
			changes = append(changes, change.Message)
		}
	}
	return changes, nil
}

// loadAPI type-checks the packages of a module that others may import.
func loadAPI(ctx context.Context, dir, path string) (*apidiff.Module, error) {
	loaded, err := packages.Load(&packages.Config{
		Context: ctx, Dir: dir, Mode: packages.NeedName | packages.NeedTypes | packages.NeedImports | packages.NeedDeps,
	}, "./...")
	if err != nil {
		return nil, err
	}
	module := &apidiff.Module{Path: path}
	for _, p := range loaded {
		for _, e := range p.Errors {
			err = errors.Join(err, e)
		}
		if p.Types != nil && p.Name != "main" && !strings.Contains(p.PkgPath+"/", "/internal/") {
			module.Packages = append(module.Packages, p.Types)
		}
	}
	return module, err
}
