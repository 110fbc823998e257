package testserver

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"time"
)

// Redis is a private Redis server that keeps nothing on disk.
type Redis struct {
	bin     string
	place   *place
	args    []string
	process *process // nil when it is down
}

// StartRedis starts a server. Args are further arguments, such as "--maxmemory", "10mb".
func StartRedis(args ...string) (*Redis, error) {
	bin, err := RedisBin()
	if err != nil {
		return nil, err
	}
	place, err := newPlace("redis", true)
	if err != nil {
		return nil, err
	}
	r := &Redis{bin: bin, place: place, args: args}
	if err := r.Start(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Addr is the server's host and port. It stays the same when the server is started again.
func (r *Redis) Addr() string { return r.place.address() }

// URL is where to connect.
func (r *Redis) URL() string { return "redis://" + r.Addr() + "/0" }

// Start starts the server, empty, after a Stop or Kill, and waits until it answers.
func (r *Redis) Start() error {
	args := append([]string{"--port", strconv.Itoa(r.place.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
		"--dir", r.place.dir}, r.args...)
	var err error
	if r.process, err = r.place.start(r.bin, args...); err != nil {
		return err
	}
	return r.process.await(r.ping)
}

func (r *Redis) ping() error {
	conn, err := net.DialTimeout("tcp", r.Addr(), time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return err
	}
	answer := make([]byte, 5)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	// Without its password, a server that asks for one is ready too.
	if string(answer) != "+PONG" && string(answer) != "-NOAU" {
		return fmt.Errorf("it answers %q", answer)
	}
	return nil
}

// Stop stops the server in good order.
func (r *Redis) Stop() { r.end(syscall.SIGTERM) }

// Kill kills it.
func (r *Redis) Kill() { r.end(syscall.SIGKILL) }

func (r *Redis) end(sig syscall.Signal) {
	r.process.end(sig)
	r.process = nil
}

// Pause holds the process (SIGSTOP): connections stay, nothing answers. Resume lets it go on.
func (r *Redis) Pause() { r.process.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (r *Redis) Resume() { r.process.signal(syscall.SIGCONT) }

// Log returns the last lines that the server logged.
func (r *Redis) Log() string { return tail(r.place.logFile()) }

// Close stops the server and removes its files.
func (r *Redis) Close() {
	r.Kill()
	r.place.free()
}
