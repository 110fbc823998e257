package testserver

import (
	"runtime"
	"syscall"
)

// attributes make a child run as cred's user, in a process group of its own (a Ctrl-C at the terminal is ours to handle),
// and die when we do.
func attributes(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func lockThread() { runtime.LockOSThread() }
