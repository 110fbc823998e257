// Command testall runs every module's tests against real servers: it finds PostgreSQL, Redis and PgBouncer or installs
// them, starts private instances, runs the tests with the race detector, prints a line for each package and a summary, and
// stops what it started. The stream of go test -json goes to .test.json. With patterns as arguments, such as ./guard/..., it
// runs the tests of those packages only. It is to be run in the folder of go.work.
//
// Exit status: 0 all passed, 1 something failed, 2 the tests could not be run to their end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

func main() {
	var opts options
	flag.StringVar(&opts.timeout, "timeout", "20m", "go test's -timeout, for each package")
	flag.StringVar(&opts.run, "run", "", "go test's -run")
	flag.BoolVar(&opts.race, "race", true, "use the race detector, which needs a C compiler")
	flag.BoolVar(&opts.browser, "browser", false, "have Chromium, for the tests of the console")
	flag.Parse()
	opts.patterns = flag.Args()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	failed, err := testAll(ctx, opts)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testall:", err)
		os.Exit(2)
	}
	if failed > 0 {
		os.Exit(1)
	}
}

type options struct {
	timeout, run string
	race         bool
	browser      bool
	patterns     []string
}

var errInterrupted = errors.New("interrupted before the tests had ended")

// testAll runs the tests and returns how many failed. When it returns, nothing that it started is left.
func testAll(ctx context.Context, opts options) (failed int, err error) {
	modules, err := workspace.Modules(ctx)
	if err != nil {
		return 0, err
	}
	report, err := newReport(".test.json", os.Stdout)
	if err != nil {
		return 0, err
	}
	defer report.close() // if it ends early: the summary is what closes it in earnest
	if err := ensure(ctx, opts.race, opts.browser); err != nil {
		return 0, err
	}
	surroundings, err := prepare(ctx, opts.race)
	defer surroundings.end()
	if opts.browser {
		surroundings.set("ENDSTATE_TEST_CHROMIUM", chromium())
	}
	if err != nil {
		return 0, err
	}
	if len(opts.patterns) > 0 {
		modules = []string{"."} // whose patterns may name other modules' packages
	}
	for _, module := range modules {
		if err := runTests(ctx, module, opts, surroundings.env, report); err != nil {
			return 0, err
		}
	}
	return report.summary()
}
