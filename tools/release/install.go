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

	"golang.org/x/mod/semver"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

// user is somebody who has Go, an empty folder, and modules by their versions: ours from a proxy of the tree, others from
// where this machine has them.
type user struct {
	dir string
	env []string
}

// newUser gives a user, below a folder, a module cache of its own: in the machine's own, a version of ours would stay for good.
func newUser(ctx context.Context, below string, from proxy, ours string) (user, error) {
	out, err := workspace.Output(exec.CommandContext(ctx, "go", "env", "GOMODCACHE", "GOPROXY", "GONOSUMDB"))
	if err != nil {
		return user{}, err
	}
	env := append(strings.Split(out, "\n"), "", "")
	return user{below, append(os.Environ(),
		"GOWORK=off",
		"GOFLAGS=-mod=mod -modcacherw -trimpath -buildvcs=false", // trimpath: the build cache then serves the next user too
		"GOMODCACHE="+filepath.Join(below, "modcache"),
		"GOBIN="+filepath.Join(below, "bin"),
		"GOPROXY=file://"+string(from)+",file://"+filepath.Join(env[0], "cache", "download")+","+env[1],
		"GONOSUMDB="+strings.Trim(ours+","+env[2], ","),
		"GOPRIVATE=",
	)}, nil
}

// run runs a command in one of the user's folders.
func (u user) run(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = filepath.Join(u.dir, dir), u.env
	return workspace.Output(cmd)
}

// install installs a command by its version, and returns what it says of its own.
func (u user) install(ctx context.Context, m workspace.Module) (version string, err error) {
	if _, err := u.run(ctx, ".", "go", "install", m.Path+"@"+m.Version); err != nil {
		return "", err
	}
	return u.run(ctx, ".", filepath.Join(u.dir, "bin", filepath.Base(m.Path)), "version")
}

// build makes a service in a new folder that requires modules by their versions ("path@version"), and builds it with the
// packages imported.
func (u user) build(ctx context.Context, dir string, packages []string, versions ...string) error {
	source := "package main\n\nimport (\n"
	for _, p := range packages {
		source += fmt.Sprintf("\t_ %q\n", p)
	}
	source += ")\n\nfunc main() {}\n"
	if err := os.Mkdir(filepath.Join(u.dir, dir), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(u.dir, dir, "main.go"), []byte(source), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"go", "mod", "init", "example.com/service"},
		append([]string{"go", "get"}, versions...),
		{"go", "build", "./..."},
	} {
		if _, err := u.run(ctx, dir, args...); err != nil {
			return err
		}
	}
	return nil
}

// importable returns the packages of a module that a service may import, and whether the module is a command.
func importable(ctx context.Context, m workspace.Module) (paths []string, command bool, err error) {
	list := exec.CommandContext(ctx, "go", "list", "-f", "{{if .GoFiles}}{{.Name}} {{.ImportPath}}{{end}}", "./...")
	list.Dir = m.Dir
	out, err := workspace.Output(list)
	if err != nil {
		return nil, false, err
	}
	for line := range strings.SplitSeq(out, "\n") {
		name, path, _ := strings.Cut(line, " ")
		switch {
		case name == "main":
			command = command || path == m.Path
		case !strings.Contains(path+"/", "/internal/"):
			paths = append(paths, path)
		}
	}
	return paths, command, nil
}

// checkInstall installs each module by its version in an empty folder, and builds a service with its last tagged version
// beside the version of the root that is to come: services don't upgrade all at once.
func checkInstall(ctx context.Context, out io.Writer, tagged []workspace.Module) (findings []string, err error) {
	below, err := os.MkdirTemp("", "endstate-release")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(below)) }()
	root := tagged[0]
	from := proxy(filepath.Join(below, "proxy"))
	for _, m := range tagged {
		if err := from.publish(ctx, m, m.Version); err != nil {
			return nil, err
		}
	}
	newer := nextMinor(root.Version)
	if err := from.publish(ctx, root, newer); err != nil {
		return nil, err
	}
	u, err := newUser(ctx, below, from, root.Path)
	if err != nil {
		return nil, err
	}
	for i, m := range tagged {
		if ctx.Err() != nil {
			return findings, ctx.Err()
		}
		imports, command, err := importable(ctx, m)
		if err != nil {
			return nil, err
		}
		if command {
			said, err := u.install(ctx, m)
			fmt.Fprintf(out, "  go install %s@%s: %s\n", m.Path, m.Version, said)
			switch {
			case err != nil:
				findings = append(findings, err.Error())
			case !strings.Contains(said, m.Version):
				findings = append(findings, fmt.Sprintf("%s: the command calls its version %q, not %s", m.Path, said, m.Version))
			}
			continue
		}
		fmt.Fprintf(out, "  go get %s@%s, and build %d packages\n", m.Path, m.Version, len(imports))
		if err := u.build(ctx, fmt.Sprint("service", i), imports, m.Path+"@"+m.Version); err != nil {
			findings = append(findings, err.Error())
			continue
		}
		if m == root {
			continue
		}
		older, beside := m.Version, newer
		last, err := lastTag(ctx, m)
		if err != nil {
			return nil, err
		}
		if last != "" && last != m.Version {
			older, beside = last, root.Version
			if err := from.publishTagged(ctx, m, last); err != nil {
				return nil, err
			}
		}
		fmt.Fprintf(out, "  go get %s@%s with the root at %s\n", m.Path, older, beside)
		if err := u.build(ctx, fmt.Sprint("older", i), imports[:1], m.Path+"@"+older, root.Path+"@"+beside); err != nil {
			findings = append(findings, err.Error())
		}
	}
	return findings, nil
}

// nextMinor returns a version that comes after another.
func nextMinor(version string) string {
	var major, minor int
	if _, err := fmt.Sscanf(semver.MajorMinor(version), "v%d.%d", &major, &minor); err != nil {
		return version
	}
	return fmt.Sprintf("v%d.%d.0", major, minor+1)
}
