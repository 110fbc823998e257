package soak

import (
	"bufio"
	"bytes"
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
)

const processes = 4

// workers are the processes. It is safe for concurrent use.
type workers struct {
	t       *testing.T
	history *history
	spec    worker
	urls    []string // of the database, by turns

	mu      sync.Mutex
	running [processes]*running
	started int
	window  int64
}

// running is one process.
type running struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr bytes.Buffer
	ended  chan struct{} // closed when all that it said was read
	killed bool
}

// startWorkers starts the processes. What they do goes into the history. The database's URLs go to them by turns.
func startWorkers(t *testing.T, h *history, spec worker, urls ...string) *workers {
	t.Helper()
	ws := &workers{t: t, history: h, spec: spec, urls: urls}
	for n := range processes {
		ws.running[n] = ws.start(n)
	}
	t.Cleanup(ws.end)
	return ws
}

func (ws *workers) start(n int) *running {
	ws.started++
	r := &running{name: fmt.Sprintf("w%d", ws.started), ended: make(chan struct{})}
	spec := ws.spec
	spec.Name, spec.URL = r.name, ws.urls[n%len(ws.urls)]
	text, err := json.Marshal(spec)
	require.NoError(ws.t, err)
	r.cmd = exec.Command(os.Args[0])
	r.cmd.Env = append(os.Environ(), workerEnv+"="+string(text))
	r.cmd.Stderr = &r.stderr
	r.stdin, err = r.cmd.StdinPipe()
	require.NoError(ws.t, err)
	out, err := r.cmd.StdoutPipe()
	require.NoError(ws.t, err)
	require.NoError(ws.t, r.cmd.Start())
	_, _ = fmt.Fprintln(r.stdin, ws.window)
	go func() {
		defer close(r.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var said record
			if err := json.Unmarshal(lines.Bytes(), &said); err != nil {
				ws.t.Errorf("worker %s said %q: %v", r.name, lines.Text(), err)
				continue
			}
			ws.history.add(said)
		}
	}()
	return r
}

// wait waits for a process's end, and returns how many of its calls didn't return.
func (ws *workers) wait(r *running) int {
	<-r.ended
	err := r.cmd.Wait()
	if err != nil && !r.killed {
		ws.t.Errorf("worker %s: %v\n%s", r.name, err, r.stderr.String())
	}
	return ws.history.crash(func(call string) bool { return strings.HasPrefix(call, r.name+".") })
}

// replace kills a process, as kill -9 does, and starts another one. It returns how many calls the process was at.
func (ws *workers) replace(n int) int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	r := ws.running[n]
	r.killed = true
	_ = r.cmd.Process.Kill()
	died := ws.wait(r)
	ws.running[n] = ws.start(n)
	return died
}

func (ws *workers) signal(n int, sig syscall.Signal) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	_ = ws.running[n].cmd.Process.Signal(sig) // if it was replaced meanwhile, SIGCONT does nothing
}

// move moves the window of keys that are called.
func (ws *workers) move(window int64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if window == ws.window {
		return
	}
	ws.window = window
	for _, r := range ws.running {
		_, _ = fmt.Fprintln(r.stdin, window)
	}
}

// end lets the calls return, and the processes end. It may be called twice.
func (ws *workers) end() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, r := range ws.running {
		if r != nil {
			_ = r.stdin.Close()
		}
	}
	for n, r := range ws.running {
		if r != nil {
			ws.wait(r)
		}
		ws.running[n] = nil
	}
}
