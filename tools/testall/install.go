package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/endstate-go/endstate/internal/testserver"
	"github.com/endstate-go/endstate/tools/internal/workspace"
)

// ensure installs, with Debian's package manager, what the tests need and the machine lacks.
func ensure(ctx context.Context, race, browser bool) error {
	packages, err := lacking(ctx, race, browser)
	if err != nil || len(packages) == 0 {
		return err
	}
	if err := install(ctx, packages); err != nil {
		return err
	}
	if packages, err = lacking(ctx, race, browser); err == nil && len(packages) > 0 {
		err = fmt.Errorf("installed, and still not found: %s", strings.Join(packages, ", "))
	}
	return err
}

// lacking returns the Debian packages of what the tests need and isn't there. The binaries are needed even with servers
// that the user names: there are tests that start, stop and kill servers of their own.
func lacking(ctx context.Context, race, browser bool) ([]string, error) {
	var packages []string
	for _, server := range []struct {
		find   func() (string, error)
		debian string
	}{
		{testserver.PostgresBin, "postgresql"},
		{testserver.RedisBin, "redis-server"},
		{testserver.PgBouncerBin, "pgbouncer"},
		{testserver.RabbitMQBin, "rabbitmq-server"},
	} {
		if _, err := server.find(); errors.Is(err, testserver.ErrMissing) {
			packages = append(packages, server.debian)
		} else if err != nil {
			return nil, err
		}
	}
	if browser {
		if chromium() == "" {
			packages = append(packages, "chromium")
		}
		if _, err := exec.LookPath("npm"); err != nil { // which fetches axe-core
			packages = append(packages, "npm")
		}
	}
	if race {
		works, err := compilerWorks(ctx)
		if err != nil {
			return nil, err
		}
		if !works {
			packages = append(packages, "gcc", "libc6-dev")
		}
	}
	return packages, nil
}

// chromium is the path of Chromium or a browser like it, empty if there is none.
func chromium() string {
	for _, name := range []string{os.Getenv("ENDSTATE_TEST_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// compilerWorks reports whether there is a C compiler, with C's headers. The race detector needs cgo, and cgo both.
func compilerWorks(ctx context.Context) (bool, error) {
	compiler, err := workspace.Output(exec.CommandContext(ctx, "go", "env", "CC"))
	if err != nil {
		return false, err
	}
	fields := strings.Fields(compiler) // a command and options
	if len(fields) == 0 {
		return false, nil
	}
	cmd := exec.CommandContext(ctx, fields[0], append(fields[1:], "-x", "c", "-fsyntax-only", "-")...)
	cmd.Stdin = strings.NewReader("#include <stdlib.h>\n")
	return cmd.Run() == nil, ctx.Err()
}

//go:embed install.sh
var installScript string

func install(ctx context.Context, packages []string) error {
	list := strings.Join(packages, " ")
	if os.Getenv("ENDSTATE_TEST_INSTALL") == "0" {
		return fmt.Errorf("this machine lacks %s, and ENDSTATE_TEST_INSTALL=0 forbids installing: install them yourself or unset it", list)
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("this machine lacks %s (by their names in Debian), and has no apt-get to install them with: install them yourself", list)
	}
	command := append([]string{"sh", "-c", installScript, "install"}, packages...)
	as := ""
	if os.Getuid() != 0 {
		if _, err := exec.LookPath("sudo"); err != nil {
			return fmt.Errorf("this machine lacks %s, and installing needs root or sudo: apt-get install %s", list, list)
		}
		command, as = append([]string{"sudo"}, command...), " and sudo"
	}
	fmt.Printf("Installing %s with apt-get%s (ENDSTATE_TEST_INSTALL=0 forbids it)\n", list, as)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr // sudo may ask for a password
	// Packages that are half installed are worse than a wait: the script ends when apt-get has.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Minute
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("install %s: %w", list, errors.Join(err, ctx.Err()))
	}
	return nil
}
