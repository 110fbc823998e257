package testserver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a private PostgreSQL server. Durability is that of the defaults: fsync and synchronous_commit are on.
type Postgres struct {
	bin, dir string
	cred     *syscall.Credential
	port     int
	settings []string
	process  *process
}

// StartPostgres makes a new cluster and starts it. Settings are such as "lock_timeout=1s".
func StartPostgres(settings ...string) (_ *Postgres, err error) {
	bin, err := PostgresBin()
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := folder("pg", cred)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &Postgres{bin: bin, dir: dir, cred: cred, port: port, settings: settings}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if err := run(cred, dir, filepath.Join(bin, "initdb"), "-D", p.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"); err != nil {
		return nil, err
	}
	return p, p.Start()
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// URL is where to connect as the superuser.
func (p *Postgres) URL() string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", p.port)
}

// Start starts the server after a Stop or Kill, and waits until it takes connections.
func (p *Postgres) Start() error {
	args := []string{"-D", p.data(), "-p", strconv.Itoa(p.port), "-k", p.dir, "-c", "listen_addresses=127.0.0.1",
		"-c", "max_connections=400", "-c", "max_prepared_transactions=10", "-c", "logging_collector=off"}
	for _, s := range p.settings {
		args = append(args, "-c", s)
	}
	var err error
	if p.process, err = start(p.cred, filepath.Join(p.dir, "log"), p.dir, filepath.Join(p.bin, "postgres"), args...); err != nil {
		return err
	}
	return p.process.await(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, p.URL())
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

// Stop stops the server: fast (sessions are ended) or, if immediate, without a shutdown, so that it recovers at the next
// start.
func (p *Postgres) Stop(immediate bool) {
	if p.process == nil {
		return
	}
	sig := syscall.SIGINT
	if immediate {
		sig = syscall.SIGQUIT
	}
	p.process.signal(sig)
	p.process = nil
}

// Close stops the server and removes its files.
func (p *Postgres) Close() {
	p.Stop(true)
	_ = os.RemoveAll(p.dir)
}
