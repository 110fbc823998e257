package soak

import (
	"math"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// The results of calls. See the package's comment.
const (
	won     = "won"
	lost    = "lost"
	open    = "open"
	unknown = "unknown"
	failed  = "failed"
)

// record is a call that begins, or one that returns: then it has a result.
type record struct {
	Call   string // the call's id, which is its trigger and part of the state that it wants
	Key    int64
	At     int64  // nanoseconds of the machine's monotonic clock
	Result string `json:",omitempty"`
	// State and Receipt are what a won or lost call was told.
	State   string `json:",omitempty"`
	Receipt string `json:",omitempty"`
	// Why is the error, if there was one, and Cause is what the worker did itself to get it.
	Why   string `json:",omitempty"`
	Cause string `json:",omitempty"`
	Code  string `json:",omitempty"` // the error's SQLSTATE
}

// state is the terminal state that a call wants. No two want the same, so that a state tells who won without a ledger too.
func state(call string) string { return "COMPLETE_" + call }

// now is the time on a clock that all processes of the machine share.
func now() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // its errors are a bad clock and a bad address
	return t.Nano()
}

// operation is a call and its return.
type operation struct {
	record
	Begin, End int64
}

// never is the End of a call that didn't return, or whose effect may be yet to come.
const never = math.MaxInt64

// history gathers what the workers say. It is safe for concurrent use.
type history struct {
	mu         sync.Mutex
	pending    map[string]record // by call
	operations []operation
	results    map[string]int // how many operations have which result
	causes     map[string]int // how many operations the workers themselves spoilt, by how
	codes      map[string]int // how many operations ended with an error of the server's, by SQLSTATE
}

func newHistory() *history {
	return &history{pending: map[string]record{}, results: map[string]int{}, causes: map[string]int{}, codes: map[string]int{}}
}

// add takes what a worker said.
func (h *history) add(r record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Result == "" {
		h.pending[r.Call] = r
		return
	}
	h.end(r, r.At)
}

func (h *history) end(r record, at int64) {
	begin := h.pending[r.Call]
	delete(h.pending, r.Call)
	if r.Result == unknown {
		at = never
	}
	h.operations = append(h.operations, operation{record: r, Begin: begin.At, End: at})
	h.results[r.Result]++
	if r.Cause != "" {
		h.causes[r.Cause]++
	}
	if r.Code != "" {
		h.codes[r.Code]++
	}
}

// crash ends the calls of a process that is dead, and returns how many there were.
func (h *history) crash(isTheirs func(call string) bool) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	died := 0
	for call, r := range h.pending {
		if isTheirs(call) {
			r.Result = unknown
			h.end(r, never)
			died++
		}
	}
	return died
}

// effective is how many operations there are, without those that failed.
func (h *history) effective() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.operations) - h.results[failed]
}

// byKey returns each key's operations, in the order of their beginnings.
func (h *history) byKey() map[int64][]operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys := map[int64][]operation{}
	for _, op := range h.operations {
		keys[op.Key] = append(keys[op.Key], op)
	}
	for _, ops := range keys {
		slices.SortFunc(ops, func(a, b operation) int { return int(a.Begin - b.Begin) })
	}
	return keys
}
