// Command lint checks every module of the workspace: gofmt, go vet, staticcheck, that each module has all that it needs
// without the others, the project's rules on imports and on what users see, and the list of faults. It prints what it finds and exits with 1, or with 2 if it couldn't
// look.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	found, err := lint(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lint:", err)
		os.Exit(2)
	}
	if found > 0 {
		os.Exit(1)
	}
}

// check is a command that prints something, or fails, if it finds something.
type check struct {
	about string
	dir   string
	env   []string
	args  []string
}

// lint runs all checks and returns how many found something.
func lint(ctx context.Context) (found int, err error) {
	alone, err := os.MkdirTemp("", "endstate-lint")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(alone)) }()
	tagged, err := workspace.Tagged(ctx)
	if err != nil {
		return 0, err
	}
	checks, err := checks(ctx, tagged, alone)
	if err != nil {
		return 0, err
	}
	for _, c := range checks {
		fmt.Println("lint:", c.about)
		findings, err := c.run(ctx)
		if err != nil {
			return found, err
		}
		if findings != "" {
			found++
			fmt.Println(findings)
		}
	}
	for _, rules := range []struct {
		about string
		find  func() (lines []string, err error)
	}{
		{"imports", func() ([]string, error) { return brokenImports(ctx) }},
		{"imports of nested modules", func() ([]string, error) { return brokenNested(ctx, tagged) }},
		{"public names", func() ([]string, error) { return brokenPublic(ctx, tagged) }},
		{"invariants and faults", func() ([]string, error) { return brokenFaults(".") }},
		{"links", func() ([]string, error) { return brokenLinks(".") }},
		{"words", func() ([]string, error) { return brokenWords(ctx, ".") }},
	} {
		fmt.Println("lint:", rules.about)
		broken, err := rules.find()
		if err != nil {
			return found, err
		}
		for _, b := range broken {
			found++
			fmt.Println(b)
		}
	}
	return found, nil
}

// checks returns the commands to run; they need what is written to the folder alone.
func checks(ctx context.Context, tagged []workspace.Module, alone string) ([]check, error) {
	modules, err := workspace.Modules(ctx)
	if err != nil {
		return nil, err
	}
	goroot, err := workspace.Output(exec.CommandContext(ctx, "go", "env", "GOROOT"))
	if err != nil {
		return nil, err
	}
	build := exec.CommandContext(ctx, "go", "tool", "-n", "staticcheck") // builds it and prints where it is
	build.Dir = "tools"
	staticcheck, err := workspace.Output(build)
	if err != nil {
		return nil, err
	}
	checks := []check{{about: "gofmt", dir: ".", args: []string{filepath.Join(goroot, "bin", "gofmt"), "-l", "."}}}
	for i, dir := range modules {
		into := filepath.Join(alone, strconv.Itoa(i))
		if err := os.Mkdir(into, 0o755); err != nil {
			return nil, err
		}
		modfile, err := workspace.Alone(dir, into, tagged)
		if err != nil {
			return nil, err
		}
		checks = append(checks,
			check{about: "go vet in " + dir, dir: dir, args: []string{"go", "vet", "./..."}},
			check{about: "staticcheck in " + dir, dir: dir, args: []string{staticcheck, "./..."}},
			// Who requires a module has no go.work. The format prints nothing: only an import that can't be found counts.
			check{about: "go.mod in " + dir, dir: dir, env: []string{"GOWORK=off"}, args: []string{"go", "list", "-modfile=" + modfile, "-deps", "-test", "-f", `{{""}}`, "./..."}},
		)
	}
	return checks, nil
}

// run returns what the check found, or an error if it couldn't look.
func (c check) run(ctx context.Context) (findings string, err error) {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), c.env...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.As(err, &exit):
		return string(out) + string(exit.Stderr) + err.Error(), nil
	case err != nil:
		return "", fmt.Errorf("%s: %w", c.about, err)
	}
	return strings.TrimSpace(string(out)), nil
}
