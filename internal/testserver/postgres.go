package testserver

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a private PostgreSQL server. Durability is that of the defaults: fsync and synchronous_commit are on.
type Postgres struct {
	bin      string
	place    *place
	settings []string
	process  *process // nil when it is down
}

// StartPostgres makes a new cluster and starts it. Settings are such as "lock_timeout=1s".
func StartPostgres(settings ...string) (*Postgres, error) {
	bin, err := PostgresBin()
	if err != nil {
		return nil, err
	}
	return StartPostgresOf(bin, settings...)
}

// StartPostgresOf is StartPostgres with the binaries of a folder, such as PostgresBins returns.
func StartPostgresOf(bin string, settings ...string) (*Postgres, error) {
	place, err := newPlace("postgres", false)
	if err != nil {
		return nil, err
	}
	p := &Postgres{bin: bin, place: place, settings: settings}
	// Only the making of the cluster isn't synced: what it loses in a crash of the machine is a temporary folder.
	err = place.run(filepath.Join(bin, "initdb"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D", p.Data())
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Data is the folder of the server's data.
func (p *Postgres) Data() string { return filepath.Join(p.place.dir, "data") }

// URL is where to connect as the superuser. It stays the same when the server is started again.
func (p *Postgres) URL() string {
	return fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable", p.place.address())
}

// Start starts the server after a Stop or Kill, and waits until it takes connections.
func (p *Postgres) Start() error {
	args := []string{"-D", p.Data(), "-p", strconv.Itoa(p.place.port)}
	for _, s := range append([]string{"listen_addresses=127.0.0.1", "unix_socket_directories=", "logging_collector=off",
		"max_connections=400", "max_prepared_transactions=10"}, p.settings...) {
		args = append(args, "-c", s)
	}
	var err error
	if p.process, err = p.place.start(filepath.Join(p.bin, "postgres"), args...); err != nil {
		return err
	}
	return p.process.await(func() error { return ping(p.URL()) })
}

// Stop stops the server: fast (sessions are ended) or, if immediate, without a shutdown, so that it recovers at the next
// start.
func (p *Postgres) Stop(immediate bool) {
	sig := syscall.SIGINT
	if immediate {
		sig = syscall.SIGQUIT
	}
	p.process.end(sig)
	p.process = nil
}

// Kill kills all processes of the server at once, none of which can say a word to its client. The next start recovers.
func (p *Postgres) Kill() {
	p.process.killTree()
	p.process = nil
}

// LogFile is where the server logs.
func (p *Postgres) LogFile() string { return p.place.logFile() }

// Log returns the last lines that the server logged.
func (p *Postgres) Log() string { return tail(p.place.logFile()) }

// Close stops the server and removes its files.
func (p *Postgres) Close() {
	p.Stop(true)
	p.place.free()
}

// ping connects, without preparing a statement, so that it can go through an old PgBouncer.
func ping(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}
