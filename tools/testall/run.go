package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// modules are the folders of the modules that go.work joins.
func modules(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "go", "work", "edit", "-json").Output()
	if err != nil {
		return nil, fmt.Errorf("read go.work (run testall in the folder it is in): %w", err)
	}
	var work struct{ Use []struct{ DiskPath string } }
	if err := json.Unmarshal(out, &work); err != nil {
		return nil, err
	}
	var dirs []string
	for _, use := range work.Use {
		dirs = append(dirs, use.DiskPath)
	}
	return dirs, nil
}

// runTests runs one module's tests and reports them as they end.
func runTests(ctx context.Context, module string, opts options, env []string, report *report) error {
	args := []string{"test", "-json", "-count=1", "-timeout", opts.timeout}
	if opts.race {
		args = append(args, "-race")
	}
	if opts.run != "" {
		args = append(args, "-run", opts.run)
	}
	patterns := opts.patterns
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	cmd := exec.CommandContext(ctx, "go", append(args, patterns...)...)
	cmd.Dir = filepath.FromSlash(module)
	cmd.Env = append(os.Environ(), env...)
	// Interrupt the whole group, so that tests stop the servers that they started, before killing it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	events := 0
	for lines.Scan() {
		events++
		if err := report.line(lines.Bytes()); err != nil {
			return errors.Join(err, cmd.Cancel(), cmd.Wait())
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && events > 0 {
		return lines.Err() // the report counted the failures
	}
	if err != nil {
		return fmt.Errorf("go test in %s: %w\n%s", module, err, stderr.Bytes())
	}
	return lines.Err()
}
