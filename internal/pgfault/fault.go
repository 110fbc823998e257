package pgfault

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// Action is what happens at the statement.
type Action int

const (
	// CutBefore cuts the connection in place of forwarding the statement: the server never sees it.
	CutBefore Action = iota
	// CutAfterReply forwards the statement, waits until the server has answered all that was sent with it, and cuts the
	// connection in place of handing on any of the answer: the statement took effect, and the client doesn't know.
	CutAfterReply
	// CutWhileWorking forwards the statement and what was sent with it, and cuts the client off at once. The server's side
	// stays open until the server has answered.
	CutWhileWorking
	// Hold keeps the statement, and all after it, until Release; also when the client has gone meanwhile.
	Hold
	// HalfOpen forwards the statement, and hands nothing on any more in either direction, without closing anything.
	HalfOpen
)

// Fault is an action at a statement.
type Fault struct {
	// SQL is how the statement's text begins; letter case doesn't matter.
	SQL string
	// Do is what happens.
	Do Action
	// Skip is how many such statements pass unharmed before the fault fires. It fires once.
	Skip int

	mu       sync.Mutex
	seen     int
	fired    chan struct{}
	answered chan struct{}
	released chan struct{}
	once     sync.Once
}

// Fired is closed when the fault has fired.
func (f *Fault) Fired() <-chan struct{} { return f.fired }

// Answered is closed when the server has answered what was forwarded, where the client was cut off from the answer.
func (f *Fault) Answered() <-chan struct{} { return f.answered }

// Release lets a held statement go on.
func (f *Fault) Release() { f.once.Do(func() { close(f.released) }) }

// RequireFired fails the test unless the fault fires, at the latest within ten seconds.
func (f *Fault) RequireFired(t testing.TB) {
	t.Helper()
	select {
	case <-f.fired:
	case <-time.After(10 * time.Second):
		t.Fatalf("the fault at %q did not fire", f.SQL)
	}
}

// hit tells whether the fault fires at this statement.
func (f *Fault) hit(sql string) bool {
	if !strings.HasPrefix(strings.ToLower(sql), strings.ToLower(f.SQL)) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen++
	if f.seen != f.Skip+1 {
		return false
	}
	close(f.fired)
	return true
}
