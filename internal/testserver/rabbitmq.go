package testserver

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// RabbitMQ is a private RabbitMQ broker, with one node, one port mapper (Erlang's epmd) and one cookie of its own.
type RabbitMQ struct {
	bin         string
	place       *place
	mapper      *process
	ports       []int // of the mapper and of Erlang's distribution
	claims      []net.PacketConn
	process     *process // nil when it is down
	environment []string
}

// StartRabbitMQ starts a broker, whose user guest, with the password guest, may do everything.
func StartRabbitMQ() (*RabbitMQ, error) {
	bin, err := RabbitMQBin()
	if err != nil {
		return nil, err
	}
	place, err := newPlace("rabbitmq", true)
	if err != nil {
		return nil, err
	}
	r := &RabbitMQ{bin: bin, place: place}
	if err := r.prepare(); err != nil {
		r.Close()
		return nil, err
	}
	if err := r.Start(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// prepare writes the configuration, and starts the port mapper.
func (r *RabbitMQ) prepare() error {
	for range 2 {
		port, claim, err := ClaimPort()
		if err != nil {
			return err
		}
		r.ports, r.claims = append(r.ports, port), append(r.claims, claim)
	}
	dir := r.place.dir
	config := fmt.Sprintf("listeners.tcp.local = %s\nlog.console = true\nlog.console.level = warning\nlog.file = false\n"+
		"vm_memory_high_watermark.absolute = 400MB\ndisk_free_limit.absolute = 1MB\n", r.Addr())
	if err := os.WriteFile(filepath.Join(dir, "rabbitmq.conf"), []byte(config), 0o644); err != nil {
		return fmt.Errorf("testserver: write RabbitMQ's configuration: %w", err)
	}
	mapper := []string{"ERL_EPMD_PORT=" + strconv.Itoa(r.ports[0]), "ERL_EPMD_ADDRESS=127.0.0.1"}
	r.environment = append(mapper,
		"HOME="+dir,  // where the cookie is
		"detached=1", // the script becomes the node, rather than stay before it
		fmt.Sprintf("RABBITMQ_NODENAME=endstate-%d@localhost", r.place.port),
		"RABBITMQ_DIST_PORT="+strconv.Itoa(r.ports[1]),
		"RABBITMQ_MNESIA_BASE="+filepath.Join(dir, "data"),
		"RABBITMQ_LOG_BASE="+filepath.Join(dir, "logs"),
		"RABBITMQ_CONFIG_FILE="+filepath.Join(dir, "rabbitmq.conf"),
		"RABBITMQ_CONF_ENV_FILE="+filepath.Join(dir, "no-environment"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(dir, "no-plugins"),
		"RABBITMQ_PID_FILE="+filepath.Join(dir, "pid"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none")
	epmd, err := lookup("epmd", "ENDSTATE_TEST_EPMD_BIN")
	if err != nil {
		return err
	}
	if r.mapper, err = r.place.startIn(mapper, epmd); err != nil {
		return err
	}
	return r.mapper.await(func() error { return dial(address(r.ports[0])) })
}

// Addr is the broker's host and port. It stays the same when the broker is started again.
func (r *RabbitMQ) Addr() string { return r.place.address() }

// URL is where to connect.
func (r *RabbitMQ) URL() string { return "amqp://guest:guest@" + r.Addr() + "/" }

// Start starts the broker after a Stop or Kill, with what it kept on disk, and waits until it answers.
func (r *RabbitMQ) Start() (err error) {
	if r.process, err = r.place.startIn(r.environment, r.bin); err != nil {
		return err
	}
	return r.process.await(r.greet)
}

// greet reports whether the broker answers the greeting of AMQP 0-9-1.
func (r *RabbitMQ) greet() error {
	conn, err := net.DialTimeout("tcp", r.Addr(), time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, "AMQP\x00\x00\x09\x01"); err != nil {
		return err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if answer[0] != 1 { // a method's frame: connection.start
		return fmt.Errorf("it answers %q", answer)
	}
	return nil
}

func dial(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Stop stops the broker in good order.
func (r *RabbitMQ) Stop() { r.end(syscall.SIGTERM) }

// Kill kills it.
func (r *RabbitMQ) Kill() { r.end(syscall.SIGKILL) }

func (r *RabbitMQ) end(sig syscall.Signal) {
	r.process.end(sig)
	r.process = nil
}

// Pause holds the process (SIGSTOP): connections stay, nothing answers. Resume lets it go on.
func (r *RabbitMQ) Pause() { r.process.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (r *RabbitMQ) Resume() { r.process.signal(syscall.SIGCONT) }

// Log returns the last lines that the broker logged.
func (r *RabbitMQ) Log() string { return tail(r.place.logFile()) }

// Close stops the broker and removes its files.
func (r *RabbitMQ) Close() {
	r.Kill()
	r.mapper.end(syscall.SIGKILL)
	for _, claim := range r.claims {
		_ = claim.Close()
	}
	r.place.free()
}

// RabbitMQBin returns the path of rabbitmq-server: that of ENDSTATE_TEST_RABBITMQ_BIN, else the newest where Debian's package
// puts it, whose wrapper in PATH insists on root or its own user, else the one in PATH.
func RabbitMQBin() (string, error) {
	const env = "ENDSTATE_TEST_RABBITMQ_BIN"
	if os.Getenv(env) == "" {
		scripts, _ := filepath.Glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server") // the pattern is right, which is all it checks
		for i := len(scripts) - 1; i >= 0; i-- {
			if executable(scripts[i]) {
				return scripts[i], nil
			}
		}
	}
	return lookup("rabbitmq-server", env)
}
