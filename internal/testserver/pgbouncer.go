package testserver

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PgBouncer is a private PgBouncer in transaction mode.
type PgBouncer struct {
	dir     string
	url     *url.URL
	process *process
}

// StartPgBouncer starts a PgBouncer in front of the database at target. Settings are lines such as "default_pool_size=2".
func StartPgBouncer(target string, settings ...string) (_ *PgBouncer, err error) {
	bin, err := PgBouncerBin()
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := folder("pgbouncer", cred)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	// With auth_type "any" all log in as the user that the database's entry names.
	config := fmt.Sprintf("[databases]\n* = host=%s port=%s user=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\nmax_client_conn = 500\nignore_startup_parameters = extra_float_digits\n",
		u.Hostname(), u.Port(), u.User.Username(), port)
	for _, s := range settings {
		config += s + "\n"
	}
	ini := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(ini, []byte(config), 0o644); err != nil {
		return nil, err
	}
	front := *u
	front.Host = fmt.Sprintf("127.0.0.1:%d", port)
	b := &PgBouncer{dir: dir, url: &front}
	if b.process, err = start(cred, filepath.Join(dir, "log"), dir, bin, ini); err != nil {
		b.Close()
		return nil, err
	}
	err = b.process.await(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		cfg, err := pgx.ParseConfig(b.URL())
		if err != nil {
			return err
		}
		cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
		conn, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// URL is where to connect, to the target's database through the bouncer.
func (b *PgBouncer) URL() string { return b.url.String() }

// Close stops it and removes its files.
func (b *PgBouncer) Close() {
	if b.process != nil {
		b.process.signal(syscall.SIGKILL)
	}
	_ = os.RemoveAll(b.dir)
}
