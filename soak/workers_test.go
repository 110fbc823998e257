package soak

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// workers are the processes. It is safe for concurrent use.
type workers struct {
	t       *testing.T
	history *history
	spec    func(post) worker
	seeds   *rand.Rand

	mu      sync.Mutex
	posts   []post
	running []*running // on each post
	started int
	window  int64
}

// post is what a process is there for; when it dies, another one takes its place.
type post struct{ role, url string }

// running is one process.
type running struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr bytes.Buffer
	ended  chan struct{} // closed when all that it said was read
	killed bool
}

// startWorkers starts a process for each post. What producers do goes into the history.
func startWorkers(t *testing.T, h *history, seed uint64, spec func(post) worker, posts ...post) *workers {
	t.Helper()
	ws := &workers{t: t, history: h, spec: spec, posts: posts, running: make([]*running, len(posts)), seeds: rand.New(rand.NewPCG(seed, 0))}
	t.Cleanup(func() { ws.end("") })
	for n := range posts {
		ws.running[n] = ws.start(n)
	}
	return ws
}

func (ws *workers) start(n int) *running {
	ws.started++
	r := &running{name: fmt.Sprintf("w%d", ws.started), ended: make(chan struct{})}
	spec := ws.spec(ws.posts[n])
	spec.Role, spec.Name, spec.URL, spec.Seed = ws.posts[n].role, r.name, ws.posts[n].url, ws.seeds.Uint64()
	var out io.Reader
	r.cmd, r.stdin, out = command(ws.t, spec, &r.stderr)
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

// command is a process of this program that isn't started yet.
func command(t *testing.T, spec worker, stderr io.Writer) (*exec.Cmd, io.WriteCloser, io.Reader) {
	text, err := json.Marshal(spec)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), workerEnv+"="+string(text))
	cmd.Stderr = stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	return cmd, stdin, out
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

// kill kills the process of a post, as kill -9 does, and starts another one. It returns how many calls the process was at.
func (ws *workers) kill(n int) int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	r := ws.running[n]
	if r == nil {
		return 0
	}
	r.killed = true
	_ = r.cmd.Process.Kill()
	died := ws.wait(r)
	ws.running[n] = ws.start(n)
	return died
}

func (ws *workers) signal(n int, sig syscall.Signal) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if r := ws.running[n]; r != nil {
		_ = r.cmd.Process.Signal(sig) // if it was replaced meanwhile, SIGCONT does nothing
	}
}

// of returns the posts of a role.
func (ws *workers) of(role string) (posts []int) {
	for n, p := range ws.posts {
		if p.role == role {
			posts = append(posts, n)
		}
	}
	return posts
}

// move moves the window of keys that are called.
func (ws *workers) move(window int64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if window == ws.window {
		return
	}
	ws.window = window
	for _, n := range ws.of(producing) {
		_, _ = fmt.Fprintln(ws.running[n].stdin, window)
	}
}

// end lets the processes of a role, or of all, finish what they are at, and end. It may be called twice.
func (ws *workers) end(role string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var ending []int
	for n, r := range ws.running {
		if r != nil && (role == "" || ws.posts[n].role == role) {
			_ = r.stdin.Close()
			ending = append(ending, n)
		}
	}
	for _, n := range slices.Sorted(slices.Values(ending)) {
		ws.wait(ws.running[n])
		ws.running[n] = nil
	}
}
