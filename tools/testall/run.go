package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"
)

// runTests runs one module's tests and reports them as they end. An error is one of running them: failures are in the report.
func runTests(ctx context.Context, module string, opts options, surroundings *surroundings, report *report) (err error) {
	cmd := exec.CommandContext(ctx, "go", goTest(opts, surroundings.overlay)...)
	cmd.Dir = filepath.FromSlash(module)
	cmd.Env = surroundings.env
	group, err := newGroup()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, group.end()) }()
	group.add(cmd)
	cmd.Cancel = group.terminate
	cmd.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	packages := 0
	for err == nil && lines.Scan() {
		var ended bool
		if ended, err = report.line(lines.Bytes()); ended {
			packages++
		}
	}
	if err = errors.Join(err, lines.Err()); err != nil && ctx.Err() == nil {
		return fmt.Errorf("read go test in %s: %w", module, errors.Join(err, group.terminate(), cmd.Wait()))
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return errInterrupted
	case err != nil && !errors.As(err, &exit):
		return fmt.Errorf("go test in %s: %w", module, err)
	case err != nil && packages == 0: // it couldn't even begin: a go.mod is wrong, say
		report.moduleBroken(module, stderr.String())
	}
	return nil
}

func goTest(opts options, overlay string) []string {
	args := []string{"test", "-json", "-count=1", "-timeout", opts.timeout}
	if opts.race {
		args = append(args, "-race")
	}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	if opts.run != "" {
		args = append(args, "-run", opts.run)
	}
	if len(opts.patterns) > 0 {
		return append(args, opts.patterns...)
	}
	return append(args, "./...")
}
