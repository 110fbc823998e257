package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/testserver"
	"github.com/endstate-go/endstate/tools/internal/workspace"
)

// surroundings are what the tests run in: servers, a folder for temporary files, and the environment that names them.
type surroundings struct {
	env      []string
	dir      string   // for temporary files
	overlay  string   // go test's -overlay, if any
	postgres string   // its version
	ends     []func() // in the order of their beginnings
}

// prepare makes the surroundings. They are to be ended even if there is an error.
func prepare(ctx context.Context, opts options) (*surroundings, error) {
	s := &surroundings{env: append(os.Environ(), "ENDSTATE_TEST_REQUIRE=1")}
	flags, err := workspace.Output(exec.CommandContext(ctx, "go", "env", "GOFLAGS"))
	if err != nil {
		return s, err
	}
	// Tests that build programs shall not depend on git, which refuses to look into a folder of another user's.
	s.set("GOFLAGS", flags+" -buildvcs=false")
	if opts.race {
		s.set("CGO_ENABLED", "1")
	}
	for _, step := range []func(context.Context) error{s.makeFolder, s.startPostgres, s.startRedis, s.findPgBouncer, s.findRabbitMQ} {
		if err := errors.Join(step(ctx), ctx.Err()); err != nil {
			return s, err
		}
	}
	return s, s.choose(opts.driver, opts.through)
}

func (s *surroundings) set(name, value string) { s.env = append(s.env, name+"="+value) }

// end stops the servers and removes the folder.
func (s *surroundings) end() {
	for len(s.ends) > 0 {
		last := len(s.ends) - 1
		s.ends[last]()
		s.ends = s.ends[:last]
	}
}

// makeFolder makes a folder for all temporary files, so that those of killed tests go too. The servers' user, who may not be
// ours, must be able to pass through it.
func (s *surroundings) makeFolder(context.Context) error {
	dir, err := os.MkdirTemp("", "endstate-tests-")
	if err != nil {
		return fmt.Errorf("make a temporary folder: %w", err)
	}
	s.dir = dir
	s.ends = append(s.ends, func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "testall: remove temporary files:", err)
		}
	})
	s.set("TMPDIR", dir)
	return errors.Join(os.Chmod(dir, 0o711), os.Setenv("TMPDIR", dir))
}

func (s *surroundings) startPostgres(ctx context.Context) error {
	bin, err := testserver.PostgresBin()
	if err != nil {
		return err
	}
	s.set("ENDSTATE_TEST_POSTGRES_BIN", bin)
	url, from := os.Getenv("ENDSTATE_TEST_POSTGRES_URL"), "ENDSTATE_TEST_POSTGRES_URL"
	if url == "" {
		server, err := testserver.StartPostgres()
		if err != nil {
			return fmt.Errorf("start PostgreSQL: %w", err)
		}
		s.ends = append(s.ends, server.Close)
		url, from = server.URL(), bin
	}
	s.set("ENDSTATE_TEST_POSTGRES_URL", url)
	s.postgres, err = postgresVersion(ctx, url)
	if err != nil {
		return fmt.Errorf("the PostgreSQL of %s: %w", from, err)
	}
	fmt.Printf("PostgreSQL %s of %s\n", s.postgres, from)
	return nil
}

func postgresVersion(ctx context.Context, url string) (version string, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, "SHOW server_version").Scan(&version)
	return version, err
}

func (s *surroundings) startRedis(context.Context) error {
	bin, err := testserver.RedisBin()
	if err != nil {
		return err
	}
	s.set("ENDSTATE_TEST_REDIS_BIN", bin)
	url, from := os.Getenv("ENDSTATE_TEST_REDIS_URL"), "ENDSTATE_TEST_REDIS_URL"
	if url == "" {
		server, err := testserver.StartRedis("--databases", "1000") // a logical one for each test that asks
		if err != nil {
			return fmt.Errorf("start Redis: %w", err)
		}
		s.ends = append(s.ends, server.Close)
		url, from = server.URL(), bin
	}
	s.set("ENDSTATE_TEST_REDIS_URL", url)
	fmt.Println("Redis of", from)
	return nil
}

func (s *surroundings) findPgBouncer(context.Context) error {
	bin, err := testserver.PgBouncerBin()
	s.set("ENDSTATE_TEST_PGBOUNCER_BIN", bin)
	return err
}

func (s *surroundings) findRabbitMQ(context.Context) error {
	bin, err := testserver.RabbitMQBin()
	s.set("ENDSTATE_TEST_RABBITMQ_BIN", bin)
	return err
}
