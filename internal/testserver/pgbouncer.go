package testserver

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// PgBouncer is a private PgBouncer in transaction mode.
type PgBouncer struct {
	place   *place
	url     string
	process *process
}

// StartPgBouncer starts a PgBouncer in front of the server at target, a URL. Settings are lines of its section [pgbouncer],
// such as "default_pool_size=2".
func StartPgBouncer(target string, settings ...string) (*PgBouncer, error) {
	bin, err := PgBouncerBin()
	if err != nil {
		return nil, err
	}
	front, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("testserver: the URL behind a PgBouncer: %w", err)
	}
	back, err := pgx.ParseConfig(target)
	if err != nil {
		return nil, fmt.Errorf("testserver: the URL behind a PgBouncer: %w", err)
	}
	place, err := newPlace("pgbouncer", false)
	if err != nil {
		return nil, err
	}
	front.Host = place.address()
	b := &PgBouncer{place: place, url: front.String()}
	if err := b.start(bin, b.config(back, settings)); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *PgBouncer) config(back *pgx.ConnConfig, settings []string) string {
	// With auth_type "any", all log in as the user that the database's entry names.
	database := fmt.Sprintf("host=%s port=%d user=%s", quote(back.Host), back.Port, quote(back.User))
	if back.Password != "" {
		database += " password=" + quote(back.Password)
	}
	return strings.Join(append([]string{
		"[databases]",
		"* = " + database,
		"[pgbouncer]",
		"listen_addr = 127.0.0.1",
		fmt.Sprintf("listen_port = %d", b.place.port),
		"unix_socket_dir =",
		"auth_type = any",
		"pool_mode = transaction",
		"max_client_conn = 500",
		"ignore_startup_parameters = extra_float_digits",
	}, settings...), "\n") + "\n"
}

// quote quotes a value of a connect string the way PgBouncer reads it.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func (b *PgBouncer) start(bin, config string) (err error) {
	ini := filepath.Join(b.place.dir, "pgbouncer.ini") // in a folder that only its user can enter
	if err := os.WriteFile(ini, []byte(config), 0o644); err != nil {
		return fmt.Errorf("testserver: write PgBouncer's configuration: %w", err)
	}
	if b.process, err = b.place.start(bin, ini); err != nil {
		return err
	}
	return b.process.await(func() error { return ping(b.url) })
}

// URL is where to connect, to the target's database through the bouncer.
func (b *PgBouncer) URL() string { return b.url }

// Log returns the last lines that it logged.
func (b *PgBouncer) Log() string { return tail(b.place.logFile()) }

// Close stops it and removes its files.
func (b *PgBouncer) Close() {
	b.process.end(syscall.SIGKILL)
	b.place.free()
}
