// Package workspace lists the modules that go.work joins.
package workspace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Modules returns the folders of the modules, as go.work writes them, such as "." or "./tools". The current folder is to be
// go.work's.
func Modules(ctx context.Context) ([]string, error) {
	out, err := Output(exec.CommandContext(ctx, "go", "work", "edit", "-json"))
	if err != nil {
		return nil, fmt.Errorf("read go.work, which is to be in the current folder: %w", err)
	}
	var work struct{ Use []struct{ DiskPath string } }
	if err := json.Unmarshal([]byte(out), &work); err != nil {
		return nil, fmt.Errorf("read go.work: %w", err)
	}
	var dirs []string
	for _, use := range work.Use {
		dirs = append(dirs, use.DiskPath)
	}
	return dirs, nil
}

// Output runs a command and returns what it printed, without space around it. An error has what it printed to stderr.
func Output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}
