package testserver

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// attributes make a child run as user, in a process group of its own (a Ctrl-C at the terminal is ours to handle), and die
// when we do.
func attributes(user *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: user, Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func lockThread() { runtime.LockOSThread() }

// killTree kills the process and its children, all at once, and waits for their end.
func (p *process) killTree() {
	if p == nil {
		return
	}
	p.signal(syscall.SIGSTOP) // so that it neither starts further children nor sees the first die
	children := childrenOf(p.cmd.Process.Pid)
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	p.end(syscall.SIGKILL)
	// The children are no longer ours to wait for, and PostgreSQL refuses to start while one of them has its memory.
	for _, pid := range children {
		for state(pid).running {
			time.Sleep(time.Millisecond)
		}
	}
}

func childrenOf(parent int) (children []int) {
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, entry := range entries {
		pid, err := strconv.Atoi(filepath.Base(entry))
		if s := state(pid); err == nil && s.running && s.parent == parent {
			children = append(children, pid)
		}
	}
	return children
}

type processState struct {
	running bool // neither gone nor a zombie
	parent  int
}

func state(pid int) processState {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat") // pid (name) state ppid …
	i := bytes.LastIndexByte(text, ')')
	if err != nil || i < 0 {
		return processState{}
	}
	fields := bytes.Fields(text[i+1:])
	if len(fields) < 2 {
		return processState{}
	}
	parent, _ := strconv.Atoi(string(fields[1]))
	return processState{running: !bytes.ContainsAny(fields[0], "ZXx"), parent: parent}
}
