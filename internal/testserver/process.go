package testserver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// patience is how long a server may take to start or to stop. On a busy machine RabbitMQ has taken more than a minute.
const patience = 3 * time.Minute

// process is a running server, which dies with us.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	log  string
}

// start starts a program with the place's user, folder and log.
func (p *place) start(path string, args ...string) (*process, error) {
	return p.startIn(nil, path, args...)
}

// startIn starts a program with further variables in its environment.
func (p *place) startIn(env []string, path string, args ...string) (*process, error) {
	out, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("testserver: open a log: %w", err)
	}
	defer out.Close()
	cmd := p.command(path, args...)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = out, out
	proc := &process{cmd: cmd, done: make(chan struct{}), log: p.logFile()}
	started := make(chan error)
	go func() {
		defer close(proc.done)
		// The kernel's "die with the parent" is tied to the thread that started the child, so this one stays.
		lockThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("testserver: start %s: %w", filepath.Base(path), err)
	}
	return proc, nil
}

// run runs a program to its end.
func (p *place) run(path string, args ...string) error {
	// On the thread that starts it hangs the program's life, and another goroutine may end a thread that it is lent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if out, err := p.command(path, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("testserver: %s: %w\n%s", filepath.Base(path), err, out)
	}
	return nil
}

func (p *place) command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = attributes(p.user)
	return cmd
}

// end sends sig, which ends the process, and waits for that. A nil process has ended already.
func (p *process) end(sig syscall.Signal) {
	if p == nil {
		return
	}
	p.signal(sig)
	select {
	case <-p.done:
	case <-time.After(patience):
		p.signal(syscall.SIGKILL)
		<-p.done
	}
}

// signal sends sig. A nil process, or one that has ended, gets none.
func (p *process) signal(sig syscall.Signal) {
	if p != nil {
		_ = p.cmd.Process.Signal(sig) // the one error is that it has ended
	}
}

// await polls until ready returns nil, the process ends, or patience is over.
func (p *process) await(ready func() error) error {
	deadline := time.Now().Add(patience)
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
			return fmt.Errorf("testserver: %s isn't ready after %v: %w\n%s", filepath.Base(p.cmd.Path), patience, err, tail(p.log))
		}
	}
}

// tail returns the last lines of a log.
func tail(path string) string {
	text, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
