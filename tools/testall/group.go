package main

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
)

// group is a process group for the tests, so that a Ctrl-C at the terminal is ours alone to handle, and all that they start
// gets our signals. It doesn't outlive us: its leader kills it when its pipe from us closes, as it also does if we are killed.
type group struct {
	leader *exec.Cmd
	pipe   io.Closer
}

func newGroup() (*group, error) {
	leader := exec.Command("sh", "-c", "trap '' TERM; read -r line; kill -s KILL 0")
	leader.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := leader.StdinPipe()
	if err == nil {
		err = leader.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start a process group: %w", err)
	}
	return &group{leader, pipe}, nil
}

// add makes a command that hasn't started yet start in the group.
func (g *group) add(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: g.leader.Process.Pid}
}

func (g *group) terminate() error { return syscall.Kill(-g.leader.Process.Pid, syscall.SIGTERM) }

// end kills what is left of the group.
func (g *group) end() error {
	err := g.pipe.Close()
	var killed *exec.ExitError
	if waited := g.leader.Wait(); !errors.As(waited, &killed) {
		err = errors.Join(err, waited)
	}
	return err
}
