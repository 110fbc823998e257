package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// How a consumer's process is told what it is, and where things are: URLs may hold passwords, and the environment is not for
// everyone's eyes as the command line is.
const (
	consumerEnv = "CONSUMERS_NAME"
	dbEnv       = "CONSUMERS_DB"
	redisEnv    = "CONSUMERS_REDIS"
	runEnv      = "CONSUMERS_RUN" // keeps the keys of several runs in one Redis apart
)

var errDied = errors.New("the process died")

// process is a consumer's process: deliveries go in as lines of JSON, and each acknowledgement comes out as a line.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr *bytes.Buffer
}

func startProcess(ctx context.Context, w *world, consumer string, env ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.CommandContext(ctx, self), stderr: new(bytes.Buffer)}
	p.cmd.Env = append(append(os.Environ(), consumerEnv+"="+consumer, dbEnv+"="+w.dsn, redisEnv+"="+w.redis, runEnv+"="+w.run), env...)
	p.cmd.Stderr = p.stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	return p, p.cmd.Start()
}

// deliver returns nil when the delivery was acknowledged, and errDied if the process died over it.
func (p *process) deliver(d delivery) error {
	line, err := json.Marshal(d)
	if err != nil {
		return err
	}
	_, err = p.in.Write(append(line, '\n'))
	var answer string
	if err == nil {
		answer, err = p.out.ReadString('\n')
	}
	if err != nil {
		return fmt.Errorf("%w: %w: %s", errDied, errors.Join(err, p.stop()), bytes.TrimSpace(p.stderr.Bytes()))
	}
	if answer != acknowledgement {
		return fmt.Errorf("the process answered %q", answer)
	}
	return nil
}

// stop ends the process and waits for it. It is safe to call twice.
func (p *process) stop() error {
	if p == nil || p.cmd.ProcessState != nil {
		return nil
	}
	_ = p.in.Close() // it ends by itself then
	return p.cmd.Wait()
}
