package testserver

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Redis is a private Redis server that keeps nothing on disk.
type Redis struct {
	bin, dir string
	port     int
	args     []string
	process  *process
}

// StartRedis starts a server. Args are further arguments, such as "--maxmemory", "10mb".
func StartRedis(args ...string) (_ *Redis, err error) {
	bin, err := RedisBin()
	if err != nil {
		return nil, err
	}
	dir, err := folder("redis", nil)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	r := &Redis{bin: bin, dir: dir, port: port, args: args}
	if err := r.Start(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Addr is the server's host and port.
func (r *Redis) Addr() string { return fmt.Sprintf("127.0.0.1:%d", r.port) }

// URL is where to connect.
func (r *Redis) URL() string { return "redis://" + r.Addr() + "/0" }

// Start starts the server, empty, after a Stop or Kill, and waits until it answers.
func (r *Redis) Start() error {
	args := append([]string{"--port", strconv.Itoa(r.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", r.dir}, r.args...)
	var err error
	if r.process, err = start(nil, filepath.Join(r.dir, "log"), r.dir, r.bin, args...); err != nil {
		return err
	}
	return r.process.await(func() error {
		conn, err := net.DialTimeout("tcp", r.Addr(), time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write([]byte("PING\r\n")); err != nil {
			return err
		}
		answer := make([]byte, 5)
		if _, err := conn.Read(answer); err != nil {
			return err
		}
		if string(answer) != "+PONG" {
			return fmt.Errorf("answered %q", answer)
		}
		return nil
	})
}

// Stop stops the server in good order.
func (r *Redis) Stop() { r.end(syscall.SIGTERM) }

// Kill kills it.
func (r *Redis) Kill() { r.end(syscall.SIGKILL) }

func (r *Redis) end(sig syscall.Signal) {
	if r.process != nil {
		r.process.signal(sig)
		r.process = nil
	}
}

// Pause stops the process's clock (SIGSTOP): connections stay, nothing answers. Resume lets it go on.
func (r *Redis) Pause() { r.process.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (r *Redis) Resume() { r.process.signal(syscall.SIGCONT) }

// Close stops the server and removes its files.
func (r *Redis) Close() {
	r.Kill()
	_ = os.RemoveAll(r.dir)
}
