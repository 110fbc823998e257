package pgfault

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// Action is what happens at a statement.
type Action int

const (
	// CutBefore cuts the connection in place of forwarding the statement: the server never sees it, and rolls back.
	CutBefore Action = iota
	// CutAfterReply forwards the statement, waits until the server has answered all that was sent with it, and cuts the
	// connection in place of handing on any of the answer: the statement took effect, and the client doesn't know.
	CutAfterReply
	// CutWhileWorking forwards the statement and what was sent with it, and cuts the client off at once. The server's side
	// stays open until the server has answered.
	CutWhileWorking
	// Hold keeps the statement, and all after it, until Release; also when the client has given up meanwhile.
	Hold
	// HoldReply forwards the statement, and keeps the answer until Release.
	HoldReply
	// HalfOpenBefore forwards nothing any more in either direction, from the statement on, without closing anything.
	HalfOpenBefore
	// HalfOpen forwards the statement and what was sent with it, and nothing any more in either direction, without closing
	// anything.
	HalfOpen
	// Delay keeps the statement, and all after it, for the fault's For.
	Delay
)

func (a Action) String() string {
	names := [...]string{"CutBefore", "CutAfterReply", "CutWhileWorking", "Hold", "HoldReply", "HalfOpenBefore", "HalfOpen", "Delay"}
	if a < 0 || int(a) >= len(names) {
		return fmt.Sprintf("Action(%d)", int(a))
	}
	return names[a]
}

// halfOpen reports whether both sides are left as they are.
func (a Action) halfOpen() bool { return a == HalfOpenBefore || a == HalfOpen }

// Fault is an action at a statement. Its fields are set before it is armed, and its methods are for afterwards; they are
// safe for concurrent use.
//
// A half-open connection stays so until the client closes its side, the server ends the session, or CutAll; the one
// doesn't reach the other. A client that sends its goodbye (Terminate) on it is let go, as it would wait for an answer.
type Fault struct {
	// SQL is how the statement's text begins; letter case doesn't matter. An empty one is how every statement begins.
	SQL string
	// Match, if set, must also be true of the statement's text. It is called for every statement that begins as SQL says, and
	// by several goroutines.
	Match func(sql string) bool
	// Do is what happens.
	Do Action
	// Skip is how many such statements pass unharmed before the fault fires.
	Skip int
	// Times is how often the fault fires, at successive such statements on whichever connections; 0 is once.
	Times int
	// For is how long Delay keeps the statement.
	For time.Duration

	mu       sync.Mutex
	seen     int
	fired    signal
	answered signal
	released signal
}

// signal is a channel that is closed once.
type signal struct {
	once sync.Once
	c    chan struct{}
}

func (s *signal) send() { s.once.Do(func() { close(s.c) }) }

func (s *signal) sent() bool {
	select {
	case <-s.c:
		return true
	default:
		return false
	}
}

// Fired is closed when the fault has fired for the first time.
func (f *Fault) Fired() <-chan struct{} { return f.fired.c }

// HasFired reports whether the fault has fired.
func (f *Fault) HasFired() bool { return f.fired.sent() }

// Answered is closed when the server has answered the statement and what was sent with it, where the client doesn't get
// that answer or not yet: CutAfterReply, CutWhileWorking, HoldReply, HalfOpen. So the statement is done, also if by an error.
func (f *Fault) Answered() <-chan struct{} { return f.answered.c }

// Release lets a held statement or answer go on, and those that the fault would hold from now on.
func (f *Fault) Release() { f.released.send() }

// RequireFired fails the test unless the fault fires, at the latest within three minutes.
func (f *Fault) RequireFired(t testing.TB) {
	t.Helper()
	f.require(t, &f.fired, "did not fire")
}

// RequireAnswered fails the test unless the server answers, at the latest within three minutes: see Answered.
func (f *Fault) RequireAnswered(t testing.TB) {
	t.Helper()
	f.require(t, &f.answered, "was not answered by the server")
}

func (f *Fault) require(t testing.TB, s *signal, what string) {
	t.Helper()
	select {
	case <-s.c:
	case <-time.After(3 * time.Minute):
		t.Fatalf("pgfault: %s %s", f, what)
	}
}

// String names the fault in messages.
func (f *Fault) String() string { return fmt.Sprintf("the fault %s at %q", f.Do, f.SQL) }

// hit reports whether the fault fires at this statement.
func (f *Fault) hit(sql string) bool {
	if len(sql) < len(f.SQL) || !strings.EqualFold(sql[:len(f.SQL)], f.SQL) || f.Match != nil && !f.Match(sql) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen++
	if f.seen <= f.Skip || f.seen-f.Skip > max(1, f.Times) {
		return false
	}
	return true
}
