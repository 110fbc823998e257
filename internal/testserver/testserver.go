// Package testserver starts private PostgreSQL, Redis and PgBouncer servers on free ports in temporary folders, for tests,
// benchmarks and the test runner. It finds the binaries that Debian's packages install. PostgreSQL refuses to run as root,
// so for root its processes run as an unprivileged user.
package testserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrMissing is returned when a server's binary isn't installed.
var ErrMissing = errors.New("testserver: not installed")

// PostgresBin returns the folder of PostgreSQL's server binaries: that of ENDSTATE_TEST_POSTGRES_BIN, else of the newest
// installed version, from 14 on.
func PostgresBin() (string, error) {
	if dir := os.Getenv("ENDSTATE_TEST_POSTGRES_BIN"); dir != "" {
		return dir, nil
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	slices.SortFunc(dirs, func(a, b string) int { return version(b) - version(a) })
	if len(dirs) > 0 && version(dirs[0]) >= 14 {
		return filepath.Dir(dirs[0]), nil
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", fmt.Errorf("%w: PostgreSQL 14 or newer (Debian: postgresql)", ErrMissing)
}

// RedisBin returns the path of redis-server.
func RedisBin() (string, error) { return lookup("redis-server", "ENDSTATE_TEST_REDIS_BIN") }

// PgBouncerBin returns the path of pgbouncer.
func PgBouncerBin() (string, error) { return lookup("pgbouncer", "ENDSTATE_TEST_PGBOUNCER_BIN") }

func lookup(name, env string) (string, error) {
	if path := os.Getenv(env); path != "" {
		return path, nil
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/bin") {
		if path := filepath.Join(dir, name); executable(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s (Debian: %s)", ErrMissing, name, name)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// unprivileged returns the user that servers run as: nil for the current one, unless that is root.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("testserver: running as root, and there is neither a user postgres nor nobody to run PostgreSQL as")
}

// folder makes a temporary folder that cred's user owns and can reach.
func folder(kind string, cred *syscall.Credential) (string, error) {
	// /tmp rather than TMPDIR: a socket's path must be short, and an unprivileged user must be able to reach it.
	dir, err := os.MkdirTemp("/tmp", "endstate-"+kind+"-")
	if err != nil {
		return "", err
	}
	if cred != nil {
		err = os.Chown(dir, int(cred.Uid), int(cred.Gid))
	}
	return dir, err
}

// freePort returns a port that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// process is a running server, which dies with us.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	log  string
}

func start(cred *syscall.Credential, logFile, dir, path string, args ...string) (*process, error) {
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = attributes(cred)
	p := &process{cmd: cmd, done: make(chan struct{}), log: logFile}
	started := make(chan error)
	go func() {
		defer close(p.done)
		// The kernel's "die with the parent" is tied to the thread that started the child, so this one stays.
		lockThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// signal sends sig, and waits for the end of the process unless it is one that doesn't end it.
func (p *process) signal(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig)
	if sig == syscall.SIGSTOP || sig == syscall.SIGCONT {
		return
	}
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// await polls until ready returns nil, the process ends, or half a minute has passed.
func (p *process) await(ready func() error) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("testserver: %s ended at its start: %w\n%s", filepath.Base(p.cmd.Path), err, tail(p.log))
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("testserver: %s isn't ready after 30 s: %w\n%s", filepath.Base(p.cmd.Path), err, tail(p.log))
		}
	}
}

func tail(path string) string {
	text, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// run runs a command of the servers' own to its end.
func run(cred *syscall.Credential, dir, path string, args ...string) error {
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = attributes(cred)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("testserver: %s: %w\n%s", filepath.Base(path), err, out)
	}
	return nil
}
