package main

import (
	"syscall"
	"time"
)

// sleepUntil is more exact than Go's timers, which are some hundred microseconds late in a process that has nothing else to do.
func sleepUntil(at time.Time) {
	for left := time.Until(at); left > 0; left = time.Until(at) {
		t := syscall.NsecToTimespec(int64(left))
		_ = syscall.Nanosleep(&t, nil) // a signal ends it early
	}
}
