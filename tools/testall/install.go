package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/endstate-go/endstate/internal/testserver"
)

// ensure installs, with Debian's package manager, what the tests need and the machine lacks.
func ensure(ctx context.Context, race bool) error {
	var packages []string
	need := func(pkg string, err error) error {
		if errors.Is(err, testserver.ErrMissing) {
			packages = append(packages, pkg)
			return nil
		}
		return err
	}
	var errs []error
	if os.Getenv("ENDSTATE_TEST_POSTGRES_URL") == "" || os.Getenv("ENDSTATE_TEST_POSTGRES_BIN") == "" {
		_, err := testserver.PostgresBin()
		errs = append(errs, need("postgresql", err))
	}
	_, err := testserver.RedisBin()
	errs = append(errs, need("redis-server", err))
	_, err = testserver.PgBouncerBin()
	errs = append(errs, need("pgbouncer", err))
	if race {
		if _, err := exec.LookPath("gcc"); err != nil {
			packages = append(packages, "gcc", "libc6-dev")
		}
	}
	if err := errors.Join(errs...); err != nil || len(packages) == 0 {
		return err
	}
	if os.Getenv("ENDSTATE_TEST_INSTALL") == "0" {
		return fmt.Errorf("this machine lacks %s, and ENDSTATE_TEST_INSTALL=0 forbids installing; install them, or set it to 1",
			strings.Join(packages, ", "))
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("this machine lacks %s and has no apt-get to install them with", strings.Join(packages, ", "))
	}
	fmt.Printf("Installing %s with apt-get (ENDSTATE_TEST_INSTALL=0 forbids it)\n", strings.Join(packages, ", "))
	if err := apt(ctx, "update", "-q"); err != nil {
		return err
	}
	return apt(ctx, append([]string{"install", "-y", "-q", "--no-install-recommends"}, packages...)...)
}

// apt runs apt-get, and keeps the packages from starting services of their own.
func apt(ctx context.Context, args ...string) error {
	command := append([]string{"apt-get"}, args...)
	if os.Getuid() != 0 {
		command = append([]string{"sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive"}, command...)
	} else if restore, err := forbidServices(); err == nil {
		defer restore()
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, out)
	}
	return nil
}

// forbidServices puts Debian's policy file in place for the time of an installation, unless there is one.
func forbidServices() (restore func(), err error) {
	const policy = "/usr/sbin/policy-rc.d"
	f, err := os.OpenFile(policy, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString("#!/bin/sh\nexit 101\n")
	return func() { _ = os.Remove(policy) }, errors.Join(err, f.Close())
}
