//go:build !linux

package testserver

import "syscall"

func attributes(user *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: user, Setpgid: true}
}

func lockThread() {}

// killTree kills the process. Its children are left to notice it, which PostgreSQL's do.
func (p *process) killTree() { p.end(syscall.SIGKILL) }
