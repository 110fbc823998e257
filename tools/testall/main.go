// Command testall runs every module's tests against real servers: it finds PostgreSQL, Redis and PgBouncer or installs
// them, starts private instances, runs the tests with the race detector, prints a line for each package and a summary, and
// stops what it started. The stream of go test -json goes to .test.json.
//
// Exit status: 0 all passed, 1 something failed, 2 the tests could not be run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	timeout := flag.String("timeout", "10m", "go test's -timeout, for each package")
	race := flag.Bool("race", true, "use the race detector, which needs a C compiler")
	run := flag.String("run", "", "go test's -run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed, err := testAll(ctx, options{timeout: *timeout, race: *race, run: *run, patterns: flag.Args()})
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "testall:", err)
		stop()
		os.Exit(2)
	case failed > 0:
		stop()
		os.Exit(1)
	}
}

type options struct {
	timeout, run string
	race         bool
	patterns     []string
}

func testAll(ctx context.Context, opts options) (failed int, err error) {
	if err := ensure(ctx, opts.race); err != nil {
		return 0, err
	}
	env, stop, err := startServers()
	defer stop()
	if err != nil {
		return 0, err
	}
	modules, err := modules(ctx)
	if err != nil {
		return 0, err
	}
	report, err := newReport(".test.json", os.Stdout)
	if err != nil {
		return 0, err
	}
	for _, module := range modules {
		err = errors.Join(err, runTests(ctx, module, opts, env, report))
	}
	if err := errors.Join(err, ctx.Err(), report.close()); err != nil {
		return 0, err
	}
	return report.summary(), nil
}
