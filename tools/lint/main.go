// Command lint checks every module of the workspace: gofmt, go vet, staticcheck, and the project's rules on imports. It
// prints what it finds and exits with 1, or with 2 if it couldn't look.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	found, err := lint(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lint:", err)
		os.Exit(2)
	}
	if found {
		os.Exit(1)
	}
}

func lint(ctx context.Context) (found bool, err error) {
	modules, err := modules(ctx)
	if err != nil {
		return false, err
	}
	staticcheck, err := output(ctx, "tools", "go", "tool", "-n", "staticcheck")
	if err != nil {
		return false, err
	}
	unformatted, err := output(ctx, ".", "gofmt", "-l", ".")
	if err != nil {
		return false, err
	}
	if unformatted != "" {
		found = true
		fmt.Printf("gofmt would change:\n%s\n", unformatted)
	}
	for _, module := range modules {
		for _, command := range [][]string{{"go", "vet", "./..."}, {staticcheck, "./..."}} {
			out, err := output(ctx, module, command...)
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				found = true
				fmt.Printf("%s in %s:\n%s\n%s", strings.Join(append([]string{filepath.Base(command[0])}, command[1:]...), " "), module, out, exit.Stderr)
			} else if err != nil {
				return false, err
			}
		}
	}
	broken, err := brokenImports(ctx)
	for _, b := range broken {
		found = true
		fmt.Println(b)
	}
	return found, err
}

// modules are the folders of the modules that go.work joins.
func modules(ctx context.Context) ([]string, error) {
	out, err := output(ctx, ".", "go", "work", "edit", "-json")
	if err != nil {
		return nil, err
	}
	var work struct{ Use []struct{ DiskPath string } }
	if err := json.Unmarshal([]byte(out), &work); err != nil {
		return nil, err
	}
	var dirs []string
	for _, use := range work.Use {
		dirs = append(dirs, use.DiskPath)
	}
	return dirs, nil
}

func output(ctx context.Context, dir string, command ...string) (string, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s in %s: %w", strings.Join(command, " "), dir, err)
	}
	return strings.TrimSpace(string(out)), err
}
