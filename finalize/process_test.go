package finalize_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// processEnv tells a process of its own what to do.
const processEnv = "ENDSTATE_TEST_PROCESS"

// caller is one call that a process makes. All calls of a process are made at once.
type caller struct {
	Database, Guard, DSN, Schema string
	App                          string // application_name of its connections
	ID                           string
	IDs                          []string          // for "insist"
	Call                         string            // "do", "doTx", "settle", or "insist"
	Params                       map[string]string // connection parameters
	Warm                         bool              // the connection has finalized another before, ID-before
	Hold                         string            // where it stays until process.release, if anywhere
}

// TestProcess is the process that startProcess starts; by itself it does nothing.
func TestProcess(t *testing.T) {
	text := os.Getenv(processEnv)
	if text == "" {
		return
	}
	var callers []caller
	require.NoError(t, json.Unmarshal([]byte(text), &callers))
	released := make(chan struct{})
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		close(released)
	}()
	require.NoError(t, registerHold(released))
	var group sync.WaitGroup
	for _, c := range callers {
		if c.Call == "insist" {
			c.insist(t)
			continue
		}
		group.Go(func() {
			said := called{Key: c.ID}
			var err error
			if said.Receipt, err = c.call(t, released); err != nil {
				said.Err, said.State = err.Error(), sqlState(err)
			}
			say(t, said)
		})
	}
	group.Wait()
}

// say tells the parent what a call returned.
func say(t *testing.T, c called) {
	line, err := json.Marshal(c)
	require.NoError(t, err)
	fmt.Printf("returned %s\n", line)
}

// inCallback is where a call may be held on every database. SQLite has more, see holdSQLite.
const inCallback = "in the callback"

func hold(released <-chan struct{}) {
	fmt.Println("holding")
	<-released
}

// callersTrigger is the trigger of all calls of other processes.
const callersTrigger finalize.Trigger = "process"

func (c caller) call(t *testing.T, released <-chan struct{}) (finalize.Receipt, error) {
	w := connect(t, c.Database, c.Guard, c.DSN, c.Schema, func(s *setup) {
		s.shared, s.app, s.maxConns = true, c.App, 1
		for name, value := range c.Params {
			s.params[name] = value
		}
		if c.Hold == afterCommit {
			s.config = func(cfg *finalize.Config) {
				cfg.Trace.Won = func(context.Context, finalize.Call, finalize.Receipt) { hold(released) }
			}
		}
	})
	if w.sqlite() {
		c.holdSQLite(t, w, released)
	}
	ctx, key := t.Context(), guard.Text(c.ID)
	if c.Warm {
		if _, err := w.do(ctx, guard.Text(c.ID+"-before"), callersTrigger, complete(c.ID+"-before")); err != nil {
			return finalize.Receipt{}, err
		}
	}
	callback := complete(c.ID)
	if c.Hold == inCallbackSpilled {
		callback = spilling(c.ID, released)
	}
	if c.Hold == inCallback {
		callback = func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			out, err := complete(c.ID)(ctx, tx)
			hold(released)
			return out, err
		}
	}
	switch c.Call {
	case "settle":
		return w.settle(ctx, key, callersTrigger, completed())
	case "doTx":
		tx, err := w.begin(ctx, "")
		if err != nil {
			return finalize.Receipt{}, err
		}
		r, err := tx.doTx(ctx, key, callersTrigger, callback)
		if err == nil {
			err = tx.Commit(ctx)
		}
		return r, err
	}
	return w.do(ctx, key, callersTrigger, callback)
}

// process is another process, which makes calls.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string // what it says, until it ends
}

// startProcess starts a process that makes these calls.
func startProcess(t *testing.T, callers ...caller) *process {
	t.Helper()
	text, err := json.Marshal(callers)
	require.NoError(t, err)
	p := &process{t: t, cmd: exec.Command(os.Args[0], "-test.run", "^TestProcess$", "-test.count", "1"), lines: make(chan string, 1000)}
	p.cmd.Env = append(os.Environ(), processEnv+"="+string(text))
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.cmd.Stderr = p.cmd.Stdout
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	var group sync.WaitGroup
	group.Go(func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.lines <- lines.Text()
		}
	})
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		for range p.lines {
		}
		group.Wait()
		_ = p.cmd.Wait()
	})
	return p
}

// await waits until n of its callers have said something that begins so, and returns the rest of it.
func (p *process) await(n int, begin string) []string {
	p.t.Helper()
	var found, said []string
	for len(found) < n {
		line, more := <-p.lines
		require.True(p.t, more, "the process ended early:\n%s", strings.Join(said, "\n"))
		said = append(said, line)
		if rest, ok := strings.CutPrefix(line, begin); ok {
			found = append(found, strings.TrimSpace(rest))
		}
	}
	return found
}

// returned waits for the results of n calls.
func (p *process) returned(n int) map[string]called {
	p.t.Helper()
	results := map[string]called{}
	for _, text := range p.await(n, "returned ") {
		c := parseCalled(p.t, text)
		results[c.Key] = c
	}
	return results
}

func parseCalled(t *testing.T, text string) (c called) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(text), &c))
	return c
}

// release lets the callbacks go on that hold.
func (p *process) release() {
	p.t.Helper()
	_, err := fmt.Fprintln(p.stdin)
	require.NoError(p.t, err)
}

// kill kills it as kill -9 does, waits for its end, and returns what it had said last.
func (p *process) kill() (lines []string) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Kill())
	for line := range p.lines {
		lines = append(lines, line)
	}
	_ = p.cmd.Wait() // it says that the process was killed
	require.Equal(p.t, syscall.SIGKILL, p.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
	return lines
}

// stop stops it as SIGSTOP does, until cont.
func (p *process) stop() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	_, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
	require.NoError(p.t, err)
	require.True(p.t, status.Stopped())
}

func (p *process) cont() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGCONT))
}
